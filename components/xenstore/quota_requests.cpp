// GET_QUOTA, SET_QUOTA, GET_FEATURE, SET_FEATURE, and what the engine tells and changes of limits. Xen's
// docs/misc/xenstore.txt.
#include <utility>
#include <vector>

#include "components/xenstore/state.h"

namespace bulkhead::xenstore {
namespace core {
namespace {

using Arguments = std::vector<std::string_view>;

Arguments arguments_of(std::string_view payload) {
  Arguments arguments;
  while (auto argument = take_argument(payload)) arguments.push_back(*argument);
  return arguments;
}

void reply_number(const Call& call, std::uint32_t number) {
  std::string text = std::to_string(number);
  call.reply(std::string_view(text.c_str(), text.size() + 1));
}

std::string quota_names() {
  std::string names;
  for (const Quota& quota : all_quotas()) names.append(names.empty() ? "" : " ").append(quota.name);
  return names;
}

ErrorCode find_known_domain(const State& state, std::string_view text, Domain*& domain) {
  auto domid = exact_domid(text);
  if (!domid) return ErrorCode::kInvalid;
  domain = *domid < kFirstReservedDomain ? state.domains.find(*domid) : nullptr;
  return domain != nullptr ? ErrorCode::kNone : ErrorCode::kNoEntry;
}

}  // namespace

ErrorCode State::set_limit(const LimitChange& change) {
  if (change.quota >= all_quotas().size()) return ErrorCode::kInvalid;
  const auto limit = all_quotas()[change.quota].limit;
  const std::uint32_t bit = 1U << change.quota;
  if (change.domid == LimitChange::kEveryDomain) {
    limits.*limit = change.value;
    domains.for_each([&](Domain& domain) {
      if ((domain.own_limits & bit) != 0) return;
      domain.limits.*limit = change.value;
      domains.unsettle(domain);
    });
    return ErrorCode::kNone;
  }
  Domain* domain = domains.find(change.domid);
  if (domain == nullptr) return ErrorCode::kNoEntry;
  domain->own_limits |= bit;
  domain->limits.*limit = change.value;
  domains.unsettle(*domain);
  return ErrorCode::kNone;
}

// [[<domid>|]<quota>|]: without arguments the names, else a value.
ErrorCode handle_get_quota(Call& call) {
  Arguments arguments = arguments_of(call.payload);
  if (arguments.empty()) {
    std::string names = quota_names();
    call.reply(std::string_view(names.c_str(), names.size() + 1));
    return ErrorCode::kNone;
  }
  if (arguments.size() > 2) return ErrorCode::kInvalid;
  Domain* domain = nullptr;
  if (arguments.size() == 2) {
    ErrorCode error = find_known_domain(call.state, arguments[0], domain);
    if (error != ErrorCode::kNone) return error;
  }
  auto quota = find_quota(arguments.back());
  if (!quota) return ErrorCode::kInvalid;
  const Limits& limits = domain != nullptr ? domain->limits : call.state.limits;
  reply_number(call, limits.*all_quotas()[*quota].limit);
  return ErrorCode::kNone;
}

// [<domid>|]<quota>|<value>|
ErrorCode handle_set_quota(Call& call) {
  Arguments arguments = arguments_of(call.payload);
  if (arguments.size() != 2 && arguments.size() != 3) return ErrorCode::kInvalid;
  LimitChange change{.domid = LimitChange::kEveryDomain, .quota = 0, .value = 0};
  if (arguments.size() == 3) {
    Domain* domain = nullptr;
    ErrorCode error = find_known_domain(call.state, arguments[0], domain);
    if (error != ErrorCode::kNone) return error;
    change.domid = domain->domid;
  }
  auto quota = find_quota(arguments[arguments.size() - 2]);
  auto value = parse_limit(arguments.back());
  if (!quota || !value) return ErrorCode::kInvalid;
  change.quota = static_cast<std::uint32_t>(*quota);
  change.value = *value;
  if (ErrorCode error = call.state.set_limit(change); error != ErrorCode::kNone) return error;
  call.mutated = true;
  call.acknowledge();
  return ErrorCode::kNone;
}

// [<domid>|]: the caller's own features are everybody's to ask for.
ErrorCode handle_get_feature(Call& call) {
  Arguments arguments = arguments_of(call.payload);
  Domain* domain = call.session.domain;
  if (!arguments.empty()) {
    if (!call.session.privileged()) return ErrorCode::kAccess;
    if (arguments.size() > 1) return ErrorCode::kInvalid;
    ErrorCode error = find_known_domain(call.state, arguments[0], domain);
    if (error != ErrorCode::kNone) return error;
  }
  reply_number(call, domain->features);
  return ErrorCode::kNone;
}

// <domid>|<value>|, before the domain is introduced.
ErrorCode handle_set_feature(Call& call) {
  Arguments arguments = arguments_of(call.payload);
  if (arguments.size() != 2) return ErrorCode::kInvalid;
  auto features = parse_limit(arguments[1]);
  Domain* domain = nullptr;
  ErrorCode error = find_known_domain(call.state, arguments[0], domain);
  if (error != ErrorCode::kNone) return error;
  if (domain->introduced) return ErrorCode::kBusy;
  if (!features || (*features & ~kServerFeatures) != 0) return ErrorCode::kInvalid;
  call.mutated = std::exchange(domain->features, *features) != *features;
  call.acknowledge();
  return ErrorCode::kNone;
}

}  // namespace core

const Limits& Engine::limits() const {
  return state_->limits;
}

const Limits& Engine::limits_of(std::uint32_t domid) const {
  const core::Domain* domain = state_->domains.find(domid);
  return domain != nullptr ? domain->limits : state_->limits;
}

Status Engine::set_limits(std::span<const LimitChange> changes, Output& out) {
  for (const LimitChange& change : changes) {
    if (change.quota >= all_quotas().size() || change.value > INT32_MAX) {
      return failure(ErrorKind::kInvalid, "no such limit");
    }
    if (change.domid != LimitChange::kEveryDomain && state_->domains.find(change.domid) == nullptr) {
      return failure(ErrorKind::kNotFound, "domain " + std::to_string(change.domid) + " is not known");
    }
  }
  for (const LimitChange& change : changes) state_->set_limit(change);
  state_->domains.settle(out);
  return {};
}

std::vector<QuotaRow> Engine::quotas(const ServerUsage& usage) const {
  std::vector<QuotaRow> rows;
  state_->domains.for_each([&](const core::Domain& domain) {
    auto add = [&](std::string_view name, std::uint32_t Limits::* limit, std::uint64_t used) {
      rows.push_back({domain.domid, name, domain.domid == 0 ? 0 : domain.limits.*limit, used});
    };
    add("nodes", &Limits::nodes, static_cast<std::uint64_t>(domain.nodes));
    add("watches", &Limits::watches, static_cast<std::uint64_t>(domain.watches));
    add("transactions", &Limits::transactions, static_cast<std::uint64_t>(domain.transactions));
    add("outstanding", &Limits::outstanding, usage.outstanding_requests(domain.domid));
    add("undelivered", &Limits::undelivered, usage.undelivered_bytes(domain.domid));
    add("memory", &Limits::memory, static_cast<std::uint64_t>(domain.memory));
  });
  return rows;
}

}  // namespace bulkhead::xenstore
