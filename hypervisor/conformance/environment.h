// Where conformance_test runs: "local", with a bulkhead-local-hypervisor of its own, or "xen", in dom0, whose
// kernel then plays the guest, too.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "hypervisor/conformance/frontend_process.h"

namespace bulkhead::hypervisor::conformance {

class Environment {
 public:
  // `name` as in names(); aborts if there is no such machine.
  static std::unique_ptr<Environment> create(const std::string& name);
  // What the environment variable BULKHEAD_HYPERVISOR says; "local" by default.
  static std::vector<std::string> names();
  virtual ~Environment() = default;

  // For hypervisor::open().
  virtual std::string spec() const = 0;
  // Whether guests are domains that can die; in dom0 by loopback they are not.
  virtual bool has_domains() const = 0;
  virtual MakeGuest guest() const = 0;
  // Domain 0's kernel; empty: it is there anyway.
  virtual MakeGuest kernel() const = 0;
};

}  // namespace bulkhead::hypervisor::conformance
