#include "runtime/instance_faults.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "runtime/clock.h"
#include "runtime/crash_point.h"

namespace bulkhead {
namespace {

constexpr std::int64_t kTurnInterval = 20 * kMillisecond;
constexpr std::size_t kFdsPerTurn = 16;

struct Unit {
  std::string_view suffix;
  std::int64_t factor;
};

Result<std::int64_t> parse_with_units(std::string_view text, std::span<const Unit> units,
                                      std::string_view expected) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view suffix(end, static_cast<std::size_t>(text.data() + text.size() - end));
  for (const Unit& unit : units) {
    std::int64_t value = 0;
    if (error == std::errc() && number >= 0 && suffix == unit.suffix &&
        !__builtin_mul_overflow(number, unit.factor, &value)) {
      return value;
    }
  }
  return failure(ErrorKind::kInvalid, "\"" + std::string(text) + "\" is not " + std::string(expected));
}

void spin_until(std::int64_t deadline_ns) {
  while (monotonic_ns() < deadline_ns) {
  }
}

void sleep_until(std::int64_t deadline_ns) {
  const timespec until{deadline_ns / kSecond, deadline_ns % kSecond};
  while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
  }
}

}  // namespace

Result<std::int64_t> parse_duration(std::string_view text) {
  static constexpr std::array kUnits{Unit{"ns", 1}, Unit{"us", kMicrosecond}, Unit{"ms", kMillisecond},
                                     Unit{"s", kSecond}, Unit{"min", 60 * kSecond}};
  return parse_with_units(text, kUnits, "a duration like \"50ms\" or \"2s\"");
}

Result<std::int64_t> parse_bytes(std::string_view text) {
  static constexpr std::array kUnits{Unit{"", 1}, Unit{"KiB", 1 << 10}, Unit{"MiB", 1 << 20},
                                     Unit{"GiB", 1 << 30}};
  return parse_with_units(text, kUnits, "a size like \"64KiB\" or \"10MiB\"");
}

InstanceFaults::InstanceFaults(std::function<void()> corrupt) {
  own_.push_back(
      {"corrupt",
       [corrupt = std::move(corrupt)](const std::string&, std::int64_t) { return corrupt(), Status(); },
       {}});
}

std::vector<std::string> InstanceFaults::kinds() {
  return {"exit", "spin", "deadlock", "slow", "leak", "fdleak", "corrupt", "drop-heartbeat", "crash-at"};
}

bool InstanceFaults::obey(const contract::v1::ToInstance& order, Instance& instance) {
  if (order.has_fault_end()) {
    end(order.fault_end().id());
    return true;
  }
  if (!order.has_fault()) return false;
  if (auto begun = begin(order.fault()); !begun) {
    contract::v1::FromInstance refusal;
    refusal.mutable_fault_refused()->set_id(order.fault().id());
    refusal.mutable_fault_refused()->set_why(begun.error().message());
    (void)instance.send(refusal);  // the core is gone: so is its interest
  }
  return true;
}

Status InstanceFaults::begin(const contract::v1::FaultOrder& order) {
  const std::string& kind = order.kind();
  const std::int64_t expires = order.expires_monotonic_ns();
  Active fault{kind, expires, 0, monotonic_ns()};
  if (kind == "exit") ::_exit(1);
  if (kind == "spin") return spin_until(expires), Status();
  // What a deadlock is to everyone else: a thread that sleeps and does not wake.
  if (kind == "deadlock") return sleep_until(expires), Status();
  if (const Own* mine = own(kind); mine != nullptr) {
    auto begun = mine->begin(order.argument(), expires);
    if (begun && mine->end) active_.insert_or_assign(order.id(), std::move(fault));
    return begun;
  }
  if (kind == "slow" || kind == "leak") {
    auto amount = kind == "slow" ? parse_duration(order.argument()) : parse_bytes(order.argument());
    if (!amount) return forward(std::move(amount), kind);
    fault.amount = *amount;
  } else if (kind == "crash-at") {
    if (!CrashPoint::arm(order.argument())) {
      return failure(ErrorKind::kNotFound, "no crash point \"" + order.argument() + "\"");
    }
  } else if (kind != "fdleak" && kind != "drop-heartbeat") {
    return failure(ErrorKind::kInvalid, "unknown fault \"" + kind + "\"");
  }
  active_.insert_or_assign(order.id(), std::move(fault));
  return {};
}

const InstanceFaults::Own* InstanceFaults::own(const std::string& kind) const {
  const auto found = std::ranges::find(own_, kind, &Own::kind);
  return found == own_.end() ? nullptr : &*found;
}

void InstanceFaults::finish(const Active& fault) {
  if (const Own* mine = own(fault.kind); mine != nullptr) mine->end();
  if (fault.kind == "crash-at") CrashPoint::disarm_all();
  if (fault.kind == "leak") leaked_.clear();
  if (fault.kind == "fdleak") leaked_fds_.clear();
}

void InstanceFaults::end(std::uint64_t id) {
  const auto found = active_.find(id);
  if (found == active_.end()) return;
  finish(found->second);
  active_.erase(found);
}

void InstanceFaults::leak(Active& fault, std::int64_t now_ns) {
  const std::int64_t due = (now_ns - fault.last_ns) * (fault.amount / 1024) / (kSecond / 1024);
  if (due <= 0) return;
  fault.last_ns = now_ns;
  // Filled, so that the pages really exist.
  leaked_.emplace_back(static_cast<std::size_t>(due), 'L');
}

void InstanceFaults::turn(std::int64_t now_ns) {
  for (auto it = active_.begin(); it != active_.end();) {
    Active& fault = it->second;
    if (now_ns >= fault.expires_ns) {
      finish(fault);
      it = active_.erase(it);
      continue;
    }
    if (fault.kind == "leak") leak(fault, now_ns);
    for (std::size_t i = 0; fault.kind == "fdleak" && i < kFdsPerTurn; ++i) {
      leaked_fds_.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    }
    ++it;
  }
}

std::int64_t InstanceFaults::next_turn_ns(std::int64_t now_ns) const {
  return active_.empty() ? 0 : now_ns + kTurnInterval;
}

std::int64_t InstanceFaults::request_delay_ns() const {
  std::int64_t delay = 0;
  for (const auto& [id, fault] : active_) {
    if (fault.kind == "slow") delay = std::max(delay, fault.amount);
  }
  return delay;
}

bool InstanceFaults::heartbeat_dropped() const {
  return std::any_of(active_.begin(), active_.end(),
                     [](const auto& entry) { return entry.second.kind == "drop-heartbeat"; });
}

}  // namespace bulkhead
