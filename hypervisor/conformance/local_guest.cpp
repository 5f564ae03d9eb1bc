#include "hypervisor/conformance/guest.h"
#include "hypervisor/local/frontend.h"

namespace bulkhead::hypervisor::conformance {
namespace {

class LocalGuest final : public Guest {
 public:
  explicit LocalGuest(std::unique_ptr<local::LocalDomain> domain) : domain_(std::move(domain)) {}

  Domid domid() const override { return domain_->domid(); }
  Result<GrantRef> grant(Access access) override {
    // Page 0 is xenstore's. References and pages in different orders, so that nobody can mistake one for the
    // other.
    const GrantRef ref = 100 - granted_;
    domain_->grant(ref, ++granted_, access);
    return ref;
  }
  std::span<std::byte> page(std::size_t index) override { return domain_->page(index + 1); }
  Result<Port> allocate_port() override { return domain_->allocate_port(); }
  Status notify(Port port) override { return domain_->notify(port); }
  BorrowedFd events() const override { return domain_->events(); }
  Result<std::optional<Port>> take_event() override { return domain_->take_event(); }
  std::span<std::byte> xenstore_page() override { return domain_->xenstore_page(); }
  Status set_xenstore_port(Port port) override { return domain_->set_xenstore_port(port); }
  Status shut_down() override { return domain_->shut_down(); }
  Status destroy() override { return domain_->destroy(); }

 private:
  std::unique_ptr<local::LocalDomain> domain_;
  GrantRef granted_ = 0;
};

}  // namespace

Result<std::unique_ptr<Guest>> local_guest(const std::string& socket, bool kernel) {
  auto domain = local::LocalDomain::create(
      socket, {.domid = kernel ? std::optional<Domid>(0) : std::nullopt, .pages = 32});
  if (!domain) return forward(std::move(domain));
  return std::make_unique<LocalGuest>(std::move(*domain));
}

}  // namespace bulkhead::hypervisor::conformance
