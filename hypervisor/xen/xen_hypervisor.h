// Xen itself, from dom0: libxengnttab, libxenevtchn, libxenctrl over /dev/xen/{gntdev,evtchn,privcmd}.
#pragma once

#include <functional>

#include "hypervisor/hypervisor.h"

struct xc_interface_core;
struct xengntdev_handle;
struct xenevtchn_handle;

namespace bulkhead::hypervisor::xen {

class XenHypervisor final : public Hypervisor {
 public:
  // kNotFound: this host does not run on Xen, is not dom0, or lacks a driver, which is named; kRefused: no
  // permission.
  static Result<std::unique_ptr<Hypervisor>> open();

  Result<std::unique_ptr<Pages>> map(Domid domid, std::span<const GrantRef> refs, Access access) override;
  Result<std::unique_ptr<Pages>> map_xenstore_page(Domid domid) override;

  Result<UniqueFd> make_events() override;
  Status use_events(BorrowedFd events) override;
  BorrowedFd events() const override;
  Result<std::optional<Port>> take_event() override;
  Status unmask(Port port) override;
  Status notify(Port port) override;
  Result<Port> bind(Domid domid, Port remote) override;
  Result<std::optional<Port>> find_binding(Domid domid, Port remote) override;
  Result<std::optional<Port>> remote_of(Domid domid, Port port) override;
  Status unbind(Port port) override;
  Result<Port> domain_events() override;
  Result<Port> xenstore_port() override;

  Result<std::vector<Domain>> domains() override;
  Result<std::optional<Domain>> domain(Domid domid) override;

 private:
  struct CloseControl {
    void operator()(xc_interface_core* control) const;
  };
  struct CloseEvents {
    void operator()(xenevtchn_handle* events) const;
  };
  using Control = std::unique_ptr<xc_interface_core, CloseControl>;
  using Events = std::unique_ptr<xenevtchn_handle, CloseEvents>;
  using Grants = std::shared_ptr<xengntdev_handle>;  // of each mapping, too

  XenHypervisor(Control control, Grants grants) : control_(std::move(control)), grants_(std::move(grants)) {}

  Error map_failure(Domid domid, int error);
  // The first of dom0's ports, in use by our descriptor, of which `wanted` is true.
  struct PortState;
  Result<std::optional<Port>> find_port(const std::function<bool(const PortState&)>& wanted);

  Control control_;
  Grants grants_;
  Events events_;
};

}  // namespace bulkhead::hypervisor::xen
