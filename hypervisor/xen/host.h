// What of the host has to be there for Xen's libraries to work, and dom0's own xenstore.
#pragma once

#include <memory>

#include "hypervisor/hypervisor.h"

namespace bulkhead::hypervisor::xen {

// Looks before the libraries do, whose errors say less. kNotFound: not on Xen, or a driver is missing, with
// the module's name; kRefused: no permission.
Status check_host();

// The page that dom0's kernel shares with its xenstore (xsd_kva). kNotFound: the kernel offers none.
Result<std::unique_ptr<Pages>> map_kernel_xenstore_page();
// And the port it allocated for it (xsd_port).
Result<Port> kernel_xenstore_port();

}  // namespace bulkhead::hypervisor::xen
