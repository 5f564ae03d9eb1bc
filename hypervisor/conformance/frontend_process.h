// A guest in another process, and its strings.
#pragma once

#include "hypervisor/conformance/child.h"
#include "hypervisor/conformance/guest.h"

namespace bulkhead::hypervisor::conformance {

using MakeGuest = std::function<Result<std::unique_ptr<Guest>>()>;

// Each call is done when it returns. Failures of the guest's are those of the test: they are printed, and the
// value is -1.
class FrontendProcess {
 public:
  explicit FrontendProcess(MakeGuest make);

  // -1: the guest could not be made.
  std::int64_t domid() const { return ask(kDomid); }
  GrantRef grant(Access access) const {
    return static_cast<GrantRef>(ask(kGrant, access == Access::kReadWrite));
  }
  // Of the first byte of a page, numbered in the order of grants.
  std::int64_t read(std::size_t page) const { return ask(kRead, page); }
  void write(std::size_t page, std::uint8_t value) const { ask(kWrite, page, value); }
  std::int64_t read_xenstore_page() const { return ask(kReadXenstore); }
  Port allocate_port() const { return static_cast<Port>(ask(kAllocatePort)); }
  bool notify(Port port, unsigned times = 1) const { return ask(kNotify, port, times) == 0; }
  // Counts page 0 up from 0 to `target`, a 64-bit number, with a signal after each step. Returns at once.
  void count(Port port, std::uint64_t target) const { ask(kCount, port, target); }
  // Waits for one; 0: none within the deadline.
  Port take_event() const { return static_cast<Port>(ask(kTakeEvent)); }
  bool set_xenstore_port(Port port) const { return ask(kSetXenstorePort, port) == 0; }
  bool shut_down() const { return ask(kShutDown) == 0; }
  bool destroy() const { return ask(kDestroy) == 0; }

  void kill() { child_.kill(); }
  void stop() const { child_.stop(); }

 private:
  enum Command : std::uint8_t {
    kDomid,
    kGrant,
    kRead,
    kWrite,
    kReadXenstore,
    kAllocatePort,
    kNotify,
    kCount,
    kTakeEvent,
    kSetXenstorePort,
    kShutDown,
    kDestroy
  };

  static void serve(const Line& line, const MakeGuest& make);
  static std::int64_t obey(Guest& guest, Command command, std::uint64_t a, std::uint64_t b);
  static std::int64_t obey_event_command(Guest& guest, Command command, std::uint64_t a, std::uint64_t b);
  std::int64_t ask(Command command, std::uint64_t a = 0, std::uint64_t b = 0) const;

  Child child_;
};

}  // namespace bulkhead::hypervisor::conformance
