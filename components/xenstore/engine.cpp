#include "components/xenstore/engine.h"

#include <cstdlib>

#include "components/xenstore/events.h"
#include "components/xenstore/hash.h"
#include "components/xenstore/state.h"
#include "components/xenstore/tree_scrub.h"

namespace bulkhead::xenstore {
namespace {

constexpr std::uint64_t kChangesPerLook = 1024;  // how often it is looked what transactions keep

}  // namespace

namespace core {

const std::array<HandlerEntry, kTypeCount> kHandlers = [] {
  std::array<HandlerEntry, kTypeCount> table{};
  table[kControl] = {handle_control, true, false};
  table[kDirectory] = {handle_directory, false, false};
  table[kRead] = {handle_read, false, false};
  table[kGetPerms] = {handle_get_perms, false, false};
  table[kWatch] = {handle_watch, false, true};
  table[kUnwatch] = {handle_unwatch, false, true};
  table[kTransactionStart] = {handle_transaction_start, false, false};
  table[kTransactionEnd] = {handle_transaction_end, false, false};
  table[kIntroduce] = {handle_introduce, true, false};
  table[kRelease] = {handle_release, true, false};
  table[kGetDomainPath] = {handle_get_domain_path, false, false};
  table[kWrite] = {handle_write, false, false};
  table[kMkdir] = {handle_mkdir, false, false};
  table[kRm] = {handle_rm, false, false};
  table[kSetPerms] = {handle_set_perms, false, false};
  table[kIsDomainIntroduced] = {handle_is_domain_introduced, true, false};
  table[kResume] = {handle_resume, true, false};
  table[kSetTarget] = {handle_set_target, true, false};
  table[kResetWatches] = {handle_reset_watches, false, false};
  table[kDirectoryPart] = {handle_directory_part, false, false};
  table[kGetFeature] = {handle_get_feature, false, true};
  table[kSetFeature] = {handle_set_feature, true, true};
  table[kGetQuota] = {handle_get_quota, true, true};
  table[kSetQuota] = {handle_set_quota, true, true};
  return table;
}();

namespace {

bool reads_nodes(std::uint32_t type) {
  return type == kRead || type == kDirectory || type == kDirectoryPart || type == kGetPerms;
}

// Finds the handler and the transaction, then runs the handler; kNone means that it has replied.
ErrorCode dispatch(Call& call, std::uint32_t transaction_id) {
  if (call.type >= kHandlers.size() || kHandlers[call.type].handler == nullptr)
    return ErrorCode::kNotSupported;
  const HandlerEntry& entry = kHandlers[call.type];
  if (entry.privileged && !call.session.privileged()) return ErrorCode::kAccess;
  if (transaction_id != 0 && !entry.ignores_transaction) {
    auto found = call.session.transactions.find(transaction_id);
    if (found == call.session.transactions.end()) return ErrorCode::kNoEntry;
    call.transaction = found->second.get();
    // One that was given up has no tree: it reads the current one, and what it would change comes to nothing.
    if (call.transaction->outlived && changes_node(call.type)) return ErrorCode::kAgain;
    if (call.transaction->outlived && reads_nodes(call.type)) call.transaction = nullptr;
  }
  return entry.handler(call);
}

void refuse(ErrorCode code, Output& out) {
  out.reply(kError, as_bytes(error_name(code)));
}

}  // namespace
}  // namespace core

Engine::Engine(const Limits& limits) : state_(std::make_unique<core::State>(limits)) {
  state_->populate();
}
Engine::Engine(std::unique_ptr<core::State> state) : state_(std::move(state)) {}
Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;

void Engine::connect(ConnectionId id, std::uint32_t domid) {
  if (id >= core::kMaxConnections || domid >= kFirstReservedDomain) std::abort();
  if (state_->session(id) == nullptr) state_->open_session(id, domid);
}

void Engine::disconnect(ConnectionId id, Output& out) {
  if (core::Session* session = state_->session(id)) state_->close_session(*session);
  state_->domains.settle(out);  // a connection that ends fires no watch
}

Outcome Engine::execute(ConnectionId id, const Request& request, Output& out) {
  core::Session* session = state_->session(id);
  if (session == nullptr || request.payload.size() > kMaxPayload) {
    core::refuse(ErrorCode::kInvalid, out);
    return {};
  }
  core::Call call{.state = *state_,
                  .session = *session,
                  .transaction = nullptr,
                  .type = request.header.type,
                  .payload = as_text(request.payload),
                  .out = out};
  const std::uint64_t changes_before = state_->generation;
  ErrorCode error = core::dispatch(call, request.header.transaction_id);
  if (error != ErrorCode::kNone) core::refuse(error, out);
  // The number of changes is state, so every engine looks at the same instants.
  if (changes_before / kChangesPerLook != state_->generation / kChangesPerLook) state_->bound_versions();
  if (state_->domains.settle(out)) call.mutated = true;
  return {.mutated = call.mutated, .damaged = state_->damaged};
}

void Engine::reset(ConnectionId id, Output& out) {
  core::Session* session = state_->session(id);
  if (session == nullptr) return;
  state_->reset_session(*session);
  state_->domains.settle(out);
}

void Engine::domain_gone(std::uint32_t domid, Output& out) {
  core::Domain* domain = state_->domains.find(domid);
  if (domid == 0 || domain == nullptr || !domain->introduced) return;
  core::end_introduced(*state_, *domain, out);
  state_->domains.settle(out);
}

void Engine::domain_shut_down(std::uint32_t domid, Output& out) {
  core::Domain* domain = state_->domains.find(domid);
  if (domid == 0 || domain == nullptr || !domain->introduced || domain->shut_down) return;
  domain->shut_down = true;
  core::fire_domain_event(*state_, core::kReleaseEvent, domid, out);
}

std::uint64_t Engine::digest() const {
  return state_->digest();
}
std::uint64_t Engine::node_count() const {
  return state_->tree.node_count();
}
std::uint32_t Engine::transactions_of(std::uint32_t domid) const {
  const core::Domain* domain = state_->domains.find(domid);
  return domain == nullptr ? 0 : static_cast<std::uint32_t>(domain->transactions);
}
ConnectionId Engine::connections_end() const {
  return static_cast<ConnectionId>(state_->sessions.size());
}
std::vector<IntroducedDomain> Engine::introduced_domains() const {
  std::vector<IntroducedDomain> introduced;
  state_->domains.for_each([&](const core::Domain& domain) {
    if (const auto known = introduced_domain(domain.domid)) introduced.push_back(*known);
  });
  return introduced;
}
std::optional<IntroducedDomain> Engine::introduced_domain(std::uint32_t domid) const {
  const core::Domain* domain = domid == 0 ? nullptr : state_->domains.find(domid);
  if (domain == nullptr || !domain->introduced) return std::nullopt;
  return IntroducedDomain{domid, domain->port, domain->introduction, domain->shut_down, domain->features};
}
std::optional<std::uint32_t> Engine::domain_of(ConnectionId id) const {
  const core::Session* session = state_->session(id);
  return session == nullptr ? std::nullopt : std::optional(session->domid);
}
std::uint64_t Engine::fingerprint() const {
  return state_->fingerprint();
}
void Engine::on_damage(DamageHandler handler) {
  state_->on_damage = std::move(handler);
}
Status Engine::check() const {
  return core::check_state(*state_);
}
Result<bool> Engine::scrub(core::TreeScrub& progress, std::size_t nodes) const {
  return progress.step(state_->tree, state_->generation, nodes);
}
void Engine::flip_bit() {
  state_->tree.flip_bit();
}

}  // namespace bulkhead::xenstore
