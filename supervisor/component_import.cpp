// Custody that is not an instance's: descriptors taken out of a process that nobody supervises, and
// everything given up. Both only while the component is at rest.
#include <spdlog/spdlog.h>

#include "runtime/clock.h"
#include "runtime/crash_point.h"
#include "supervisor/component.h"
#include "supervisor/listener.h"

namespace bulkhead::supervisor {
namespace {

CrashPoint import_half{"core-import-half"};
CrashPoint import_deposited{"core-import-deposited"};
CrashPoint release_half{"core-release-half"};

}  // namespace

struct Component::Taken {
  std::string name;
  std::string kind;
  UniqueFd fd;
};

bool Component::is_at_rest() const {
  return state_ == State::kStopped && !wanted_ && instances_.empty();
}

bool Component::was_ever_owned() const {
  return lease_ && lease_->owner().incarnation != 0;
}

bool Component::holds_others_items() const {
  return std::ranges::any_of(custody_.items(), [](const auto& item) { return item.second.depositor != 0; });
}

// ---- taking ----

Status Component::import_custody(const v1::ImportCustodyRequest& request) {
  if (config_.kind != ComponentKind::kNative)
    return failure(ErrorKind::kRefused, name() + " is not a component that custody is kept for");
  if (!is_at_rest()) {
    return failure(ErrorKind::kRefused, name() + " is " + std::string(name_of(state_)) +
                                            ": it must be stopped to take anything over");
  }
  if (was_ever_owned()) {
    return failure(ErrorKind::kRefused,
                   name() + " has a state of its own already: release its custody to give that up");
  }
  auto items = take_descriptors(request);
  if (!items) return forward(std::move(items));
  const std::size_t count = items->size();
  if (holds_others_items()) {
    give_up_custody();  // of an import that no instance has touched
    if (auto prepared = prepare(); !prepared) return prepared;
  }
  if (auto kept = deposit_taken(std::move(*items)); !kept) return kept;
  import_deposited.pass();
  services_.events.note(
      v1::Event::KIND_CUSTODY, name(), incarnation_,
      "took " + std::to_string(count) + " descriptors of process " + std::to_string(request.pid()));
  // In the same turn: until it is wanted, what was taken is nothing that a later core would keep.
  return operate(Event::kEnable);
}

Result<std::vector<Component::Taken>> Component::take_descriptors(
    const v1::ImportCustodyRequest& request) const {
  // Before any is opened here: the caller chooses how many there are.
  if (static_cast<std::size_t>(request.items_size()) > custody_.limits().items) {
    return failure(ErrorKind::kExhausted, std::to_string(request.items_size()) + " items are too many: " +
                                              std::to_string(custody_.limits().items) + " are allowed");
  }
  auto process = PidFd::open(request.pid());
  if (!process) return forward(std::move(process));
  std::vector<Taken> items;
  for (const v1::ImportedItem& asked : request.items()) {
    auto fd = process->get_fd(asked.number());
    if (!fd) return forward(std::move(fd), asked.name());
    if (asked.name() == kListenerItem) {
      if (auto ours = take_over_listener(fd->borrow(), config_.socket); !ours)
        return forward(std::move(ours), asked.name());
    }
    items.push_back({asked.name(), asked.kind(), std::move(*fd)});
  }
  return items;
}

Status Component::deposit_taken(std::vector<Taken> items) {
  const std::uint64_t depositor = services_.new_instance();
  std::vector<std::string> kept;
  for (Taken& item : items) {
    // The one that was made here is nobody's: another program listens at its path.
    if (const HeldItem* own = custody_.find(kListenerItem);
        item.name == kListenerItem && own != nullptr && own->depositor == 0)
      (void)custody_.withdraw(kListenerItem);
    auto held = custody_.deposit(item.name, item.kind, std::move(item.fd), depositor, wall_us());
    if (!held) {
      for (const std::string& name : kept) (void)custody_.withdraw(name);
      return forward(std::move(held), item.name);
    }
    if (*held == Custody::Deposited::kNew) kept.push_back(item.name);
    import_half.pass();
  }
  return {};
}

// ---- giving up ----

Status Component::release() {
  if (!is_at_rest()) {
    return failure(ErrorKind::kRefused,
                   name() + " is " + std::string(name_of(state_)) + ": it must be stopped first");
  }
  give_up_custody();
  services_.events.note(v1::Event::KIND_CUSTODY, name(), 0, "custody was released");
  services_.changed(name());
  return prepare();
}

// The lease first: custody that has none is being given up, whoever finds it.
void Component::give_up_custody() {
  lease_.reset();
  if (custody_.find(kLeaseItem) != nullptr) (void)custody_.withdraw(kLeaseItem);
  release_half.pass();
  const HeldItem* listener = custody_.find(kListenerItem);
  // One that was taken from another program is perhaps still used by it.
  if (listener != nullptr && listener->depositor == 0 && listens_at(listener->fd.borrow(), config_.socket))
    ::unlink(config_.socket.c_str());
  while (!custody_.items().empty()) (void)custody_.withdraw(std::string(custody_.items().begin()->first));
  ring_ = {};
  incarnation_ = 0;
  started_once_ = false;
}

// What a former core left of an import that did not come to its end, or of a release.
void Component::drop_unfinished() {
  if (config_.kind != ComponentKind::kNative || !holds_others_items()) return;
  const HeldItem* lease = custody_.find(kLeaseItem);
  if (lease != nullptr) {
    const auto opened = Lease::open(lease->fd.borrow());
    if (wanted_ || !opened || opened->owner().incarnation != 0) return;
  }
  spdlog::warn("{}: giving up what a former core had not finished taking in, or giving up", name());
  give_up_custody();
}

}  // namespace bulkhead::supervisor
