// The smallest native component: a counter in custody, asked for over a Unix socket, one command per
// connection. Tests of the core run it; it does everything the contract asks for and nothing else.
//
// Commands: "count" -> "COUNT INCARNATION PID"; "custody" -> the names of what this instance holds;
// "deposit NAME BYTES" -> "ok" or why not; "withdraw NAME" -> "ok"; "say TEXT" -> TEXT on standard output.
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "runtime/clock.h"
#include "runtime/crash_point.h"
#include "runtime/instance.h"
#include "runtime/instance_faults.h"
#include "runtime/lease.h"

namespace {

using bulkhead::BorrowedFd;
using bulkhead::CrashPoint;
using bulkhead::Instance;
using bulkhead::InstanceFaults;
using bulkhead::kMillisecond;
using bulkhead::Lease;
using bulkhead::Mapping;
using bulkhead::Status;
using bulkhead::UniqueFd;
namespace contract = bulkhead::contract;

CrashPoint before_answer{"echo-before-answer"};
CrashPoint after_count{"echo-after-count"};

constexpr const char* kStateItem = "state";
constexpr std::size_t kStateBytes = 4096;

// What a test has appended to a copy of this program, as its last line: "echo:VERSION:FLAW\n". Flaws: "exits"
// at once; "outrun" does so once custody holds an item "extra"; "unready" never says that it is ready;
// "crashes", "hangs" when it is asked for the third count.
struct Variant {
  std::string version = "test";
  std::string flaw;
};

Variant read_variant() {
  std::ifstream file("/proc/self/exe", std::ios::binary | std::ios::ate);
  constexpr std::streamoff kTail = 64;
  file.seekg(-kTail, std::ios::end);
  const std::string tail{std::istreambuf_iterator<char>(file), {}};
  const std::size_t at = tail.rfind("\necho:");
  if (at == std::string::npos) return {};
  std::istringstream words(tail.substr(at + 6));
  Variant variant;
  std::getline(words, variant.version, ':');
  std::getline(words, variant.flaw);
  return variant;
}

const Variant& variant() {
  static const Variant kVariant = read_variant();
  return kVariant;
}

contract::Hello hello() {
  contract::Hello message;
  message.set_program_version(variant().version);
  for (const auto point : CrashPoint::names()) message.add_crash_points(std::string(point));
  for (const auto& kind : InstanceFaults::kinds()) message.add_fault_kinds(kind);
  return message;
}

class Echo {
 public:
  explicit Echo(Instance& instance)
      : instance_(instance), faults_([] {}), bell_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  // On a thread of its own, while the main thread waits for the lease.
  void follow() {
    const bool says = variant().flaw != "unready";
    if (says && !instance_.send_ready()) ::_exit(0);  // the core is gone for good
    while (!owner_.load()) turn(BorrowedFd(-1));
  }

  void retire() {
    owner_.store(true);
    ::eventfd_write(bell_.get(), 1);
  }

  Status own(const Lease::Owner& owner, bool predecessor_died) {
    incarnation_ = owner.incarnation;
    if (auto opened = open_state(); !opened) return opened;
    instance_.vitals().active.store(1);
    contract::FromInstance message;
    auto& active = *message.mutable_active();
    active.set_incarnation(owner.incarnation);
    active.set_acquired_monotonic_ns(owner.acquired_ns);
    active.set_serving_monotonic_ns(bulkhead::monotonic_ns());
    active.set_predecessor_died(predecessor_died);
    if (auto sent = instance_.send(message); !sent) return sent;
    return instance_.send_ready();
  }

  [[noreturn]] void serve() {
    const auto* listener = instance_.custody("listener");
    for (;;) turn(listener == nullptr ? BorrowedFd(-1) : listener->fd.borrow());
  }

 private:
  Status open_state() {
    if (instance_.custody(kStateItem) == nullptr) {
      auto segment = bulkhead::create_memfd("echo-state", kStateBytes);
      if (!segment) return forward(std::move(segment));
      if (auto kept = instance_.deposit(kStateItem, "segment", std::move(*segment)); !kept) return kept;
    }
    auto mapping = Mapping::map(instance_.custody(kStateItem)->fd.borrow(), kStateBytes);
    if (!mapping) return forward(std::move(mapping));
    state_ = std::move(*mapping);
    return {};
  }

  void turn(BorrowedFd listener) {
    std::array<pollfd, 4> waiting{pollfd{instance_.contract_fd().get(), POLLIN, 0},
                                  pollfd{instance_.wake_fd().get(), POLLIN, 0},
                                  pollfd{bell_.get(), POLLIN, 0}, pollfd{listener.get(), POLLIN, 0}};
    const std::int64_t next = faults_.next_turn_ns(bulkhead::monotonic_ns());
    const std::int64_t wait = next == 0 ? -1 : std::max<std::int64_t>(0, next - bulkhead::monotonic_ns());
    ::poll(waiting.data(), waiting.size(), wait < 0 ? -1 : static_cast<int>(wait / kMillisecond) + 1);
    if (owner_.load() && listener.get() < 0) return;  // the main thread goes on from here
    faults_.turn(bulkhead::monotonic_ns());
    instance_.vitals().heartbeat_ns.store(bulkhead::monotonic_ns());
    if (waiting[0].revents != 0) {
      auto pumped = instance_.pump([this](const contract::ToInstance& order) { obey(order); });
      if (!pumped) ::_exit(0);  // the core is gone for good
    }
    if (waiting[1].revents != 0)
      faults_.heartbeat_dropped() ? instance_.ignore_ping() : instance_.answer_ping();
    if (waiting[3].revents != 0) answer(listener);
  }

  void obey(const contract::ToInstance& order) {
    if (order.has_yield() || order.has_stop()) ::_exit(0);
    if (faults_.obey(order, instance_)) return;
    if (order.has_query()) answer_query(order.query());
  }

  void answer_query(const contract::Query& query) {
    contract::FromInstance message;
    message.mutable_reply()->set_id(query.id());
    message.mutable_reply()->set_error("there are no quotas here");
    (void)instance_.send(message);
  }

  void answer(BorrowedFd listener) {
    const UniqueFd client(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client.valid()) return;
    auto& vitals = instance_.vitals();
    vitals.work_arrived.fetch_add(1);
    std::array<char, 512> buffer{};
    const ssize_t got = ::recv(client.get(), buffer.data(), buffer.size(), 0);
    if (got > 0) {
      before_answer.pass();
      const std::string reply = command({buffer.data(), static_cast<std::size_t>(got)}) + "\n";
      (void)!::send(client.get(), reply.data(), reply.size(), MSG_NOSIGNAL);
    }
    vitals.work_done.fetch_add(1);
    if (vitals.first_answer_ns.load() == 0) vitals.first_answer_ns.store(bulkhead::monotonic_ns());
  }

  std::string command(const std::string& line) {
    std::istringstream words(line);
    std::string verb, name;
    words >> verb >> name;
    if (verb == "count") {
      if (++counts_ == 3 && variant().flaw == "crashes") ::abort();
      while (counts_ == 3 && variant().flaw == "hangs") ::pause();
      const std::uint64_t count = state_.at<std::atomic<std::uint64_t>>(0)->fetch_add(1) + 1;
      after_count.pass();
      return std::to_string(count) + " " + std::to_string(incarnation_) + " " + std::to_string(::getpid());
    }
    if (verb == "custody") return holds(name);
    if (verb == "deposit") {
      std::size_t bytes = 4096;
      words >> bytes;
      auto segment = bulkhead::create_memfd("echo-" + name, bytes);
      if (!segment) return segment.error().message();
      auto kept = instance_.deposit(name, "segment", std::move(*segment));
      return kept ? "ok" : kept.error().message();
    }
    if (verb == "withdraw") {
      contract::FromInstance message;
      message.set_withdraw(name);
      auto sent = instance_.send(message);
      return sent ? "ok" : sent.error().message();
    }
    if (verb == "say") {
      std::printf("%s\n", name.c_str());
      std::fflush(stdout);
      return "ok";
    }
    return "unknown command";
  }

  // "yes" or "no": does this instance hold the item?
  std::string holds(const std::string& name) const {
    return instance_.custody(name) != nullptr ? "yes" : "no";
  }

  Instance& instance_;
  InstanceFaults faults_;
  UniqueFd bell_;
  std::atomic<bool> owner_{false};
  std::uint64_t incarnation_ = 0;
  int counts_ = 0;
  Mapping state_;
};

Status run() {
  auto instance = Instance::attach(hello());
  if (!instance) return forward(std::move(instance));
  const bool outrun = variant().flaw == "outrun" && instance->custody("extra") != nullptr;
  if (variant().flaw == "exits" || outrun) {
    return bulkhead::failure(bulkhead::ErrorKind::kInvalid, "this custody is of another layout");
  }
  const auto* item = instance->custody("lease");
  if (item == nullptr) return bulkhead::failure(bulkhead::ErrorKind::kInvalid, "no lease in custody");
  auto lease = Lease::open(item->fd.borrow());
  if (!lease) return forward(std::move(lease));
  Echo echo(*instance);
  std::thread follower([&echo] { echo.follow(); });
  auto died = lease->acquire();
  echo.retire();
  follower.join();
  if (!died) return forward(std::move(died));
  if (auto owned = echo.own(lease->owner(), *died); !owned) {
    std::fprintf(stderr, "echo_component: %s\n", owned.error().message().c_str());
    ::_exit(3);
  };
  echo.serve();
}

}  // namespace

int main() {
  ::signal(SIGPIPE, SIG_IGN);
  const Status ran = run();
  std::fprintf(stderr, "echo_component: %s\n", ran.error().message().c_str());
  return 1;
}
