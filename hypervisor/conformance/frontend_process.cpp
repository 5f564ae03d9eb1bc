#include "hypervisor/conformance/frontend_process.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>

namespace bulkhead::hypervisor::conformance {
namespace {

std::int64_t value_of(const Status& status) {
  if (status) return 0;
  (void)std::fprintf(stderr, "guest: %s\n", status.error().message().c_str());
  return -1;
}

template <typename T>
std::int64_t value_of(const Result<T>& result) {
  if (result) return static_cast<std::int64_t>(*result);
  (void)std::fprintf(stderr, "guest: %s\n", result.error().message().c_str());
  return -1;
}

Result<Port> wait_for_event(Guest& guest) {
  while (wait_readable(guest.events())) {
    auto event = guest.take_event();
    if (!event) return forward(std::move(event));
    if (*event) return **event;
  }
  return failure(ErrorKind::kTimeout, "no event");
}

void count_up(Guest& guest, Port port, std::uint64_t target) {
  auto* counter = reinterpret_cast<std::atomic<std::uint64_t>*>(guest.page(0).data());
  for (std::uint64_t i = 1; i <= target; ++i) {
    counter->store(i);
    (void)guest.notify(port);
  }
}

}  // namespace

FrontendProcess::FrontendProcess(MakeGuest make)
    : child_([make = std::move(make)](const Line& line) { serve(line, make); }) {}

void FrontendProcess::serve(const Line& line, const MakeGuest& make) {
  auto guest = make();
  if (!guest) {
    value_of(Status(forward(std::move(guest))));
    ::_exit(1);
  }
  for (;;) {
    auto command = line.receive();
    if (!command) {
      if (command.error().kind() == ErrorKind::kTimeout) continue;
      ::_exit(0);
    }
    auto a = line.receive();
    auto b = line.receive();
    if (!a || !b) ::_exit(1);
    const auto first = static_cast<std::uint64_t>(a->value);
    const auto second = static_cast<std::uint64_t>(b->value);
    if (command->value == kCount) {
      (void)line.send(0);
      count_up(**guest, static_cast<Port>(first), second);
      continue;
    }
    (void)line.send(obey(**guest, static_cast<Command>(command->value), first, second));
  }
}

std::int64_t FrontendProcess::obey(Guest& guest, Command command, std::uint64_t a, std::uint64_t b) {
  switch (command) {
    case kDomid:
      return guest.domid();
    case kGrant:
      return value_of(guest.grant(a != 0 ? Access::kReadWrite : Access::kReadOnly));
    case kRead:
      return static_cast<std::int64_t>(guest.page(a)[0]);
    case kWrite:
      guest.page(a)[0] = static_cast<std::byte>(b);
      return 0;
    case kReadXenstore:
      return static_cast<std::int64_t>(guest.xenstore_page()[0]);
    case kSetXenstorePort:
      return value_of(guest.set_xenstore_port(static_cast<Port>(a)));
    case kShutDown:
      return value_of(guest.shut_down());
    case kDestroy:
      return value_of(guest.destroy());
    default:
      return obey_event_command(guest, command, a, b);
  }
}

std::int64_t FrontendProcess::obey_event_command(Guest& guest, Command command, std::uint64_t a,
                                                 std::uint64_t b) {
  if (command == kAllocatePort) return value_of(guest.allocate_port());
  if (command == kTakeEvent) return value_of(wait_for_event(guest));
  Status notified;
  for (std::uint64_t i = 0; i < b && notified; ++i) notified = guest.notify(static_cast<Port>(a));
  return value_of(notified);
}

std::int64_t FrontendProcess::ask(Command command, std::uint64_t a, std::uint64_t b) const {
  const Line& line = child_.line();
  for (const auto word : {static_cast<std::uint64_t>(command), a, b}) {
    if (!line.send(static_cast<std::int64_t>(word))) return -1;
  }
  auto reply = line.receive();
  return reply ? reply->value : -1;
}

}  // namespace bulkhead::hypervisor::conformance
