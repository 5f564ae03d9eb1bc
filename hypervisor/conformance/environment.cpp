#include "hypervisor/conformance/environment.h"

#include <cstdio>
#include <cstdlib>

#include "hypervisor/local/machine_process.h"

namespace bulkhead::hypervisor::conformance {
namespace {

class LocalEnvironment final : public Environment {
 public:
  LocalEnvironment() {
    auto machine = local::MachineProcess::start(BULKHEAD_BIN "/bulkhead-local-hypervisor");
    if (!machine) {
      (void)std::fprintf(stderr, "%s\n", machine.error().message().c_str());
      std::abort();
    }
    machine_ = std::move(*machine);
  }
  std::string spec() const override { return machine_->spec(); }
  bool has_domains() const override { return true; }
  MakeGuest guest() const override {
    return [socket = machine_->socket()] { return local_guest(socket, false); };
  }
  MakeGuest kernel() const override {
    return [socket = machine_->socket()] { return local_guest(socket, true); };
  }

 private:
  std::unique_ptr<local::MachineProcess> machine_;
};

class XenEnvironment final : public Environment {
 public:
  std::string spec() const override { return "xen"; }
  bool has_domains() const override { return false; }
  MakeGuest guest() const override { return xen_guest; }
  MakeGuest kernel() const override { return {}; }
};

}  // namespace

std::vector<std::string> Environment::names() {
  const char* name = std::getenv("BULKHEAD_HYPERVISOR");
  return {name == nullptr ? "local" : name};
}

std::unique_ptr<Environment> Environment::create(const std::string& name) {
  if (name == "local") return std::make_unique<LocalEnvironment>();
  if (name == "xen") return std::make_unique<XenEnvironment>();
  (void)std::fprintf(stderr, "no such hypervisor: %s\n", name.c_str());
  std::abort();
}

}  // namespace bulkhead::hypervisor::conformance
