// dom0 as a guest of its own, by loopback: its kernel grants pages to domain 0 (xen-gntalloc) and allocates
// ports for it.
#include <fcntl.h>

#include "hypervisor/conformance/guest.h"

extern "C" {  // which they do not say themselves
#include <xenevtchn.h>
#include <xengnttab.h>
}

namespace bulkhead::hypervisor::conformance {
namespace {

struct Close {
  void operator()(xengntshr_handle* shares) const { xengntshr_close(shares); }
  void operator()(xenevtchn_handle* events) const { xenevtchn_close(events); }
};
using Shares = std::unique_ptr<xengntshr_handle, Close>;
using Events = std::unique_ptr<xenevtchn_handle, Close>;

Status is_domain_zero() {
  return failure(ErrorKind::kRefused, "the guest is domain 0 itself");
}

class XenGuest final : public Guest {
 public:
  XenGuest(Shares shares, Events events) : shares_(std::move(shares)), events_(std::move(events)) {}

  Domid domid() const override { return 0; }
  Result<GrantRef> grant(Access access) override {
    std::uint32_t ref = 0;
    void* page = xengntshr_share_pages(shares_.get(), 0, 1, &ref, access == Access::kReadWrite ? 1 : 0);
    if (page == nullptr) return os_failure("cannot grant a page: is the module xen-gntalloc loaded?");
    pages_.emplace_back(static_cast<std::byte*>(page), kPageBytes);
    return ref;
  }
  std::span<std::byte> page(std::size_t index) override { return pages_.at(index); }
  Result<Port> allocate_port() override {
    const int port = xenevtchn_bind_unbound_port(events_.get(), 0);
    if (port < 0) return os_failure("cannot allocate a port");
    return static_cast<Port>(port);
  }
  Status notify(Port port) override {
    if (xenevtchn_notify(events_.get(), port) == 0) return {};
    return os_failure("cannot notify");
  }
  BorrowedFd events() const override { return BorrowedFd(xenevtchn_fd(events_.get())); }
  Result<std::optional<Port>> take_event() override {
    const int port = xenevtchn_pending(events_.get());
    if (port < 0 && errno == EAGAIN) return std::optional<Port>();
    if (port < 0 || xenevtchn_unmask(events_.get(), static_cast<Port>(port)) != 0) {
      return os_failure("cannot take an event");
    }
    return std::optional(static_cast<Port>(port));
  }
  std::span<std::byte> xenstore_page() override { return pages_.at(0); }
  Status set_xenstore_port(Port) override { return is_domain_zero(); }
  Status shut_down() override { return is_domain_zero(); }
  Status destroy() override { return is_domain_zero(); }

 private:
  Shares shares_;
  Events events_;
  std::vector<std::span<std::byte>> pages_;
};

}  // namespace

Result<std::unique_ptr<Guest>> xen_guest() {
  Shares shares(xengntshr_open(nullptr, 0));
  if (!shares) return os_failure("cannot open /dev/xen/gntalloc: load the module xen-gntalloc");
  Events events(xenevtchn_open(nullptr, 0));
  if (!events) return os_failure("cannot open /dev/xen/evtchn");
  const int fd = xenevtchn_fd(events.get());
  if (::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK) != 0) return os_failure("cannot use events");
  return std::make_unique<XenGuest>(std::move(shares), std::move(events));
}

}  // namespace bulkhead::hypervisor::conformance
