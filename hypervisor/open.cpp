#include <string_view>

#include "hypervisor/hypervisor.h"
#include "hypervisor/local/local_hypervisor.h"
#include "hypervisor/xen/xen_hypervisor.h"

namespace bulkhead::hypervisor {

Result<std::unique_ptr<Hypervisor>> open(const std::string& spec) {
  constexpr std::string_view kLocal = "local:";
  if (spec == "xen") return xen::XenHypervisor::open();
  if (spec.starts_with(kLocal)) return local::LocalHypervisor::open(spec.substr(kLocal.size()));
  return failure(ErrorKind::kInvalid, "hypervisor '" + spec + "' is neither 'xen' nor 'local:PATH'");
}

}  // namespace bulkhead::hypervisor
