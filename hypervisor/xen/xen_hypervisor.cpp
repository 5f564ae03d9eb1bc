#include "hypervisor/xen/xen_hypervisor.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>

#include "hypervisor/xen/host.h"
#include "hypervisor/xen/silent_log.h"

extern "C" {  // which they do not say themselves
#include <xenctrl.h>
#include <xenevtchn.h>
#include <xengnttab.h>
}

namespace bulkhead::hypervisor::xen {
namespace {

static_assert(kFirstReservedDomid == DOMID_FIRST_RESERVED && kPageBytes == XC_PAGE_SIZE);

constexpr std::size_t kMaxRefs = 4096;  // of one mapping; more than any protocol has

class GrantedPages final : public Pages {
 public:
  GrantedPages(std::shared_ptr<xengnttab_handle> grants, void* data, std::uint32_t count)
      : Pages(static_cast<std::byte*>(data), count * kPageBytes), grants_(std::move(grants)), count_(count) {}
  ~GrantedPages() override { xengnttab_unmap(grants_.get(), data(), count_); }

 private:
  std::shared_ptr<xengnttab_handle> grants_;
  std::uint32_t count_;
};

Domain domain_of(const xc_domaininfo_t& info) {
  return {info.domain, (info.flags & XEN_DOMINF_shutdown) != 0, (info.flags & XEN_DOMINF_dying) != 0};
}

// What the driver of event channels says of a port that is not of this descriptor.
bool is_not_bound(int error) {
  return error == ENOTCONN || error == EINVAL;
}

std::string name_of(Port port) {
  return "port " + std::to_string(port);
}

}  // namespace

void XenHypervisor::CloseControl::operator()(xc_interface* control) const {
  xc_interface_close(control);
}
void XenHypervisor::CloseEvents::operator()(xenevtchn_handle* events) const {
  xenevtchn_close(events);
}

Result<std::unique_ptr<Hypervisor>> XenHypervisor::open() {
  if (auto checked = check_host(); !checked) return forward(std::move(checked));
  Control control(xc_interface_open(silent_log(), nullptr, 0));
  if (!control) return os_failure("cannot open /dev/xen/privcmd");
  xc_domaininfo_t domain0{};
  if (xc_domain_getinfolist(control.get(), 0, 1, &domain0) < 0) {
    if (errno == EPERM || errno == EACCES) {
      return failure(ErrorKind::kNotFound, "this is not dom0: Xen does not let it see domains");
    }
    return os_failure("cannot list domains");
  }
  Grants grants(xengnttab_open(silent_log(), 0), [](xengnttab_handle* handle) {
    if (handle != nullptr) xengnttab_close(handle);
  });
  if (!grants) return os_failure("cannot open /dev/xen/gntdev");
  return std::unique_ptr<Hypervisor>(new XenHypervisor(std::move(control), std::move(grants)));
}

// ---- memory ----

// The driver has one word for all that Xen may say: EINVAL.
Error XenHypervisor::map_failure(Domid domid, int error) {
  const std::string name = "domain " + std::to_string(domid);
  if (error != EINVAL) return Error::from_errno("cannot map grants of " + name, error);
  if (auto found = domain(domid); found && !found->has_value()) {
    return {ErrorKind::kNotFound, "there is no " + name};
  }
  return {ErrorKind::kRefused, name + " has not granted this to us"};
}

Result<std::unique_ptr<Pages>> XenHypervisor::map(Domid domid, std::span<const GrantRef> refs,
                                                  Access access) {
  if (refs.empty() || refs.size() > kMaxRefs) {
    return failure(ErrorKind::kInvalid, "cannot map " + std::to_string(refs.size()) + " grants");
  }
  if (domid >= kFirstReservedDomid) return failure(ErrorKind::kNotFound, "a reserved domid");
  std::vector<std::uint32_t> wanted(refs.begin(), refs.end());
  const auto count = static_cast<std::uint32_t>(wanted.size());
  const int protection = access == Access::kReadOnly ? PROT_READ : PROT_READ | PROT_WRITE;
  void* data = xengnttab_map_domain_grant_refs(grants_.get(), count, domid, wanted.data(), protection);
  if (data == nullptr) return std::unexpected(map_failure(domid, errno));
  return std::make_unique<GrantedPages>(grants_, data, count);
}

Result<std::unique_ptr<Pages>> XenHypervisor::map_xenstore_page(Domid domid) {
  if (domid == 0) return map_kernel_xenstore_page();
  const GrantRef ref = GNTTAB_RESERVED_XENSTORE;
  return map(domid, {&ref, 1}, Access::kReadWrite);
}

// ---- event channels ----

Result<UniqueFd> XenHypervisor::make_events() {
  UniqueFd events(::open("/dev/xen/evtchn", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!events.valid()) return os_failure("cannot open /dev/xen/evtchn");
  return events;
}

Status XenHypervisor::use_events(BorrowedFd events) {
  if (events_) return failure(ErrorKind::kRefused, "an events descriptor is in use already");
  UniqueFd copy(::fcntl(events.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return os_failure("cannot use the events descriptor");
  const int flags = ::fcntl(copy.get(), F_GETFL);
  if (flags < 0 || ::fcntl(copy.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return os_failure("cannot use the events descriptor");
  }
  events_.reset(xenevtchn_fdopen(silent_log(), copy.get(), 0));
  if (!events_) return os_failure("cannot use the events descriptor");
  (void)copy.release();  // it is the handle's now
  return {};
}

BorrowedFd XenHypervisor::events() const {
  return BorrowedFd(xenevtchn_fd(events_.get()));
}

Result<std::optional<Port>> XenHypervisor::take_event() {
  const xenevtchn_port_or_error_t port = xenevtchn_pending(events_.get());
  if (port >= 0) return std::optional(static_cast<Port>(port));
  if (errno == EAGAIN || errno == EINTR) return std::optional<Port>();
  return os_failure("cannot take an event");
}

Status XenHypervisor::unmask(Port port) {
  if (xenevtchn_unmask(events_.get(), port) == 0) return {};
  return os_failure("cannot unmask " + name_of(port));
}

Status XenHypervisor::notify(Port port) {
  if (xenevtchn_notify(events_.get(), port) == 0) return {};
  if (is_not_bound(errno)) return failure(ErrorKind::kNotFound, name_of(port) + " is not bound");
  return os_failure("cannot notify " + name_of(port));
}

Result<Port> XenHypervisor::bind(Domid domid, Port remote) {
  const xenevtchn_port_or_error_t port = xenevtchn_bind_interdomain(events_.get(), domid, remote);
  if (port >= 0) return static_cast<Port>(port);
  const std::string what = name_of(remote) + " of domain " + std::to_string(domid);
  if (errno == EINVAL || errno == ESRCH) {
    return failure(ErrorKind::kRefused, what + ": no such port, or bound already");
  }
  return os_failure("cannot bind " + what);
}

Status XenHypervisor::unbind(Port port) {
  if (xenevtchn_unbind(events_.get(), port) == 0) return {};
  if (is_not_bound(errno)) return failure(ErrorKind::kNotFound, name_of(port) + " is not bound");
  return os_failure("cannot unbind " + name_of(port));
}

struct XenHypervisor::PortState {
  evtchn_status_t told;
};

Result<std::optional<Port>> XenHypervisor::find_port(const std::function<bool(const PortState&)>& wanted) {
  for (Port port = 1;; ++port) {
    PortState state{};
    state.told.dom = DOMID_SELF;
    state.told.port = port;
    if (xc_evtchn_status(control_.get(), &state.told) != 0) {
      if (errno == EINVAL) return std::optional<Port>();  // beyond the last one
      return os_failure("cannot ask for the state of " + name_of(port));
    }
    // It may be another process's, of which only the driver knows: it lets us notify our own. The other end
    // has to expect signals without cause anyway.
    if (wanted(state) && xenevtchn_notify(events_.get(), port) == 0) return std::optional(port);
  }
}

Result<std::optional<Port>> XenHypervisor::find_binding(Domid domid, Port remote) {
  return find_port([domid, remote](const PortState& state) {
    const auto& told = state.told;
    return told.status == EVTCHNSTAT_interdomain && told.u.interdomain.dom == domid &&
           told.u.interdomain.port == remote;
  });
}

Result<std::optional<Port>> XenHypervisor::remote_of(Domid domid, Port port) {
  evtchn_status_t told{};
  told.dom = DOMID_SELF;
  told.port = port;
  if (xc_evtchn_status(control_.get(), &told) != 0) {
    if (errno == EINVAL) return std::optional<Port>();  // beyond the last one
    return os_failure("cannot ask for the state of " + name_of(port));
  }
  if (told.status != EVTCHNSTAT_interdomain || told.u.interdomain.dom != domid) return std::optional<Port>();
  return std::optional<Port>(told.u.interdomain.port);
}

Result<Port> XenHypervisor::domain_events() {
  const xenevtchn_port_or_error_t port = xenevtchn_bind_virq(events_.get(), VIRQ_DOM_EXC);
  if (port >= 0) return static_cast<Port>(port);
  if (errno != EEXIST && errno != EBUSY) return os_failure("cannot bind the event of ending domains");
  auto found = find_port([](const PortState& state) {
    return state.told.status == EVTCHNSTAT_virq && state.told.u.virq == VIRQ_DOM_EXC;
  });
  if (!found) return forward(std::move(found));
  if (!*found) {
    return failure(ErrorKind::kRefused,
                   "another process receives the event of ending domains: does another "
                   "xenstored run?");
  }
  return **found;
}

Result<Port> XenHypervisor::xenstore_port() {
  return kernel_xenstore_port();
}

// ---- domains ----

Result<std::vector<Domain>> XenHypervisor::domains() {
  std::vector<Domain> domains;
  std::array<xc_domaininfo_t, 64> batch{};
  for (Domid first = 0; first < kFirstReservedDomid;) {
    const int count =
        xc_domain_getinfolist(control_.get(), first, static_cast<unsigned>(batch.size()), batch.data());
    if (count < 0) return os_failure("cannot list domains");
    if (count == 0) break;
    for (int i = 0; i < count; ++i) domains.push_back(domain_of(batch[static_cast<std::size_t>(i)]));
    first = domains.back().domid + 1;
  }
  std::sort(domains.begin(), domains.end(),
            [](const Domain& a, const Domain& b) { return a.domid < b.domid; });
  return domains;
}

Result<std::optional<Domain>> XenHypervisor::domain(Domid domid) {
  xc_domaininfo_t info{};
  // The one asked for, or else the next.
  const int count = xc_domain_getinfolist(control_.get(), domid, 1, &info);
  if (count < 0) return os_failure("cannot ask for domain " + std::to_string(domid));
  if (count == 0 || info.domain != domid) return std::optional<Domain>();
  return domain_of(info);
}

}  // namespace bulkhead::hypervisor::xen
