#include "supervisor/faults.h"

#include <csignal>

#include <algorithm>
#include <array>

#include "runtime/clock.h"
#include "runtime/crash_point.h"
#include "runtime/instance_faults.h"

namespace bulkhead::supervisor {
namespace {

CrashPoint fault_before_record{"core-fault-before-record"};
CrashPoint fault_before_act{"core-fault-before-act"};
CrashPoint fault_after_act{"core-fault-after-act"};

constexpr std::size_t kMaxArgumentBytes = 256;

// Faults that need no help from the instance.
struct SignalFault {
  const char* kind;
  int begin;
  int end;  // 0: nothing can be undone
};
constexpr std::array kSignalFaults{SignalFault{"crash", SIGKILL, 0}, SignalFault{"abort", SIGABRT, 0},
                                   SignalFault{"hang", SIGSTOP, SIGCONT}};

const SignalFault* signal_fault(const std::string& kind) {
  const auto* found = std::ranges::find(kSignalFaults, kind, &SignalFault::kind);
  return found == kSignalFaults.end() ? nullptr : found;
}

// "crash-at" is offered by the instance's crash points, the others by name.
bool instance_offers(const contract::Hello& hello, const std::string& kind) {
  if (kind == "crash-at" && hello.crash_points_size() > 0) return true;
  return std::ranges::find(hello.fault_kinds(), kind) != hello.fault_kinds().end();
}

template <typename Names>
std::string joined(const Names& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + std::string(name);
  return text;
}

Status check_argument(const contract::Hello& hello, const std::string& kind, const std::string& argument) {
  if (kind == "slow") {
    if (auto latency = parse_duration(argument); !latency) return forward(std::move(latency), "slow");
  } else if (kind == "leak") {
    if (auto rate = parse_bytes(argument); !rate) return forward(std::move(rate), "leak, bytes per second");
  } else if (kind == "crash-at") {
    if (std::ranges::find(hello.crash_points(), argument) != hello.crash_points().end()) return {};
    return failure(ErrorKind::kInvalid,
                   "unknown crash point '" + argument + "'; known are " + joined(hello.crash_points()));
  }
  return {};
}

Status check(const v1::InjectFaultRequest& request, const Instance& instance) {
  if (request.for_ms() > FaultBoard::kMaxLeaseMs) {
    return failure(ErrorKind::kInvalid, "for_ms is " + std::to_string(request.for_ms()) + ", at most " +
                                            std::to_string(FaultBoard::kMaxLeaseMs) + " is allowed");
  }
  if (request.argument().size() > kMaxArgumentBytes) {
    return failure(ErrorKind::kInvalid,
                   "the argument is longer than " + std::to_string(kMaxArgumentBytes) + " bytes");
  }
  if (signal_fault(request.kind()) != nullptr) return {};
  if (!instance_offers(instance.hello, request.kind())) {
    std::vector<std::string> known;
    for (const auto& kind : FaultBoard::kinds(request.component(), instance)) known.push_back(kind.kind());
    return failure(ErrorKind::kInvalid, "unknown fault '" + request.kind() + "' for " + request.component() +
                                            "; known are " + joined(known));
  }
  return check_argument(instance.hello, request.kind(), request.argument());
}

std::string describe(const v1::Fault& fault) {
  std::string text = fault.kind();
  if (!fault.argument().empty()) text += " " + fault.argument();
  return text + " into the " + fault.target() + " instance, process " + std::to_string(fault.pid());
}

}  // namespace

std::vector<v1::FaultKind> FaultBoard::kinds(const std::string& component, const Instance& instance) {
  std::vector<v1::FaultKind> kinds;
  const auto add = [&](const std::string& kind) {
    const bool known = std::ranges::any_of(kinds, [&](const v1::FaultKind& k) { return k.kind() == kind; });
    if (known) return;
    v1::FaultKind& added = kinds.emplace_back();
    added.set_component(component);
    added.set_kind(kind);
    if (kind == "crash-at") *added.mutable_arguments() = instance.hello.crash_points();
  };
  for (const SignalFault& fault : kSignalFaults) add(fault.kind);
  for (const std::string& kind : instance.hello.fault_kinds()) add(kind);
  if (instance.hello.crash_points_size() > 0) add("crash-at");
  return kinds;
}

Result<v1::Fault> FaultBoard::inject(const v1::InjectFaultRequest& request, Instance& instance,
                                     const std::string& by) {
  if (auto fine = check(request, instance); !fine) return forward(std::move(fine));
  if (faults_.size() >= kMaxFaults) {
    return failure(ErrorKind::kExhausted,
                   std::to_string(kMaxFaults) + " faults are active; clear some first");
  }
  const std::uint32_t lease_ms = request.for_ms() == 0 ? kDefaultLeaseMs : request.for_ms();
  Entry entry{{}, instance.id, loop_.now() + lease_ms * kMillisecond, 0};
  v1::Fault& fault = entry.fault;
  fault.set_id(++last_id_);
  fault.set_component(request.component());
  fault.set_kind(request.kind());
  fault.set_argument(request.argument());
  fault.set_target(instance.role == Role::kStandby ? "standby" : "active");
  fault.set_pid(instance.process.pid());
  fault.set_injected_unix_us(wall_us());
  fault.set_expires_unix_us(fault.injected_unix_us() + std::int64_t{lease_ms} * 1000);
  fault.set_by(by);
  const std::uint64_t id = fault.id();
  entry.timer = loop_.at(entry.expires_ns, [this, id] { end(id, "its lease is over"); });
  const Entry& kept = faults_.emplace(id, std::move(entry)).first->second;
  fault_before_record.pass();
  persist_();
  fault_before_act.pass();
  events_.note(v1::Event::KIND_FAULT_INJECTED, request.component(), 0,
               "fault " + std::to_string(id) + ": " + describe(kept.fault) + ", by " + by);
  auto done = carry_out(kept, instance);
  fault_after_act.pass();
  if (done) return kept.fault;
  end(id, "it could not be carried out");
  return forward(std::move(done), "cannot inject " + request.kind());
}

Status FaultBoard::carry_out(const Entry& entry, Instance& instance) const {
  if (const SignalFault* fault = signal_fault(entry.fault.kind()); fault != nullptr) {
    return instance.process.signal(fault->begin);
  }
  if (!instance.link) return failure(ErrorKind::kRefused, "the component speaks no contract");
  contract::ToInstance message;
  message.mutable_fault()->set_id(entry.fault.id());
  message.mutable_fault()->set_kind(entry.fault.kind());
  message.mutable_fault()->set_argument(entry.fault.argument());
  message.mutable_fault()->set_expires_monotonic_ns(entry.expires_ns);
  instance.link->send(std::move(message));
  return {};
}

void FaultBoard::undo(const Entry& entry) const {
  Instance* instance = lookup_(entry.fault.component(), entry.instance);
  if (instance == nullptr) return;
  if (const SignalFault* fault = signal_fault(entry.fault.kind()); fault != nullptr) {
    // A process that has ended meanwhile needs no signal.
    if (fault->end != 0) (void)instance->process.signal(fault->end);
    return;
  }
  if (!instance->link) return;
  contract::ToInstance message;
  message.mutable_fault_end()->set_id(entry.fault.id());
  instance->link->send(std::move(message));
}

void FaultBoard::end(std::uint64_t id, const std::string& why) {
  const auto found = faults_.find(id);
  if (found == faults_.end()) return;
  undo(found->second);
  loop_.cancel(found->second.timer);
  const v1::Fault fault = std::move(found->second.fault);
  faults_.erase(found);
  persist_();
  events_.note(v1::Event::KIND_FAULT_CLEARED, fault.component(), 0,
               "fault " + std::to_string(id) + " (" + fault.kind() + ") is over: " + why);
}

std::vector<v1::Fault> FaultBoard::list(const std::string& component) const {
  std::vector<v1::Fault> result;
  for (const auto& [id, entry] : faults_) {
    if (component.empty() || entry.fault.component() == component) result.push_back(entry.fault);
  }
  return result;
}

Result<std::vector<v1::Fault>> FaultBoard::clear(std::uint64_t id, const std::string& component) {
  std::vector<v1::Fault> cleared;
  if (id != 0 && !faults_.contains(id)) {
    return failure(ErrorKind::kNotFound, "no fault " + std::to_string(id) + " is active");
  }
  for (v1::Fault& fault : list(component)) {
    if (id == 0 || fault.id() == id) cleared.push_back(std::move(fault));
  }
  for (const v1::Fault& fault : cleared) end(fault.id(), "cleared");
  return cleared;
}

void FaultBoard::refused(std::uint64_t id, const std::string& why) {
  end(id, "the instance refused it: " + why);
}

std::optional<v1::Fault> FaultBoard::on(std::uint64_t instance) const {
  std::optional<v1::Fault> newest;
  for (const auto& [id, entry] : faults_) {
    if (entry.instance == instance) newest = entry.fault;
  }
  return newest;
}

void FaultBoard::instance_gone(std::uint64_t instance) {
  std::vector<std::uint64_t> ended;
  for (const auto& [id, entry] : faults_) {
    if (entry.instance == instance) ended.push_back(id);
  }
  for (const std::uint64_t id : ended) end(id, "its process has ended");
}

void FaultBoard::record(manifest::v1::Manifest& manifest) const {
  manifest.set_last_fault(last_id_);
  for (const auto& [id, entry] : faults_) {
    manifest::v1::Fault& fault = *manifest.add_faults();
    *fault.mutable_fault() = entry.fault;
    fault.set_instance(entry.instance);
    fault.set_expires_ns(entry.expires_ns);
  }
}

void FaultBoard::undo_restored(const manifest::v1::Manifest& manifest) {
  last_id_ = manifest.last_fault();
  for (const manifest::v1::Fault& fault : manifest.faults()) {
    faults_.emplace(fault.fault().id(), Entry{fault.fault(), fault.instance(), fault.expires_ns(), 0});
  }
  for (const manifest::v1::Fault& fault : manifest.faults())
    end(fault.fault().id(), "the core was restarted");
}

}  // namespace bulkhead::supervisor
