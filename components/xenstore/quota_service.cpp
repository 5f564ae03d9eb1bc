#include "components/xenstore/quota_service.h"

#include "components/xenstore/protocol.h"

namespace bulkhead::xenstore {
namespace {

constexpr std::string_view kSettingPrefix = "quota-";
constexpr std::string_view kDomainPrefix = "domain ";
constexpr std::size_t kMaxAnswer = std::size_t{160} * 1024;  // one packet of the contract holds 190 KiB

std::string names() {
  std::string text;
  for (const Quota& quota : all_quotas()) text.append(text.empty() ? "" : ", ").append(quota.name);
  return text;
}

}  // namespace

Result<Limits> limits_from(const google::protobuf::Map<std::string, std::string>& settings) {
  Limits limits;
  for (const auto& [setting, text] : settings) {
    if (!setting.starts_with(kSettingPrefix)) continue;
    const auto quota = find_quota(std::string_view(setting).substr(kSettingPrefix.size()));
    if (!quota) {
      std::string why = "setting ";
      why.append(setting).append(": no such quota; known are ").append(names());
      return failure(ErrorKind::kInvalid, std::move(why));
    }
    const auto value = parse_limit(text);
    if (!value) {
      std::string why = "setting ";
      why.append(setting).append(" = \"").append(text).append("\" must be a number from 0 to 2147483647");
      return failure(ErrorKind::kInvalid, std::move(why));
    }
    limits.*all_quotas()[*quota].limit = *value;
  }
  return limits;
}

std::vector<LimitChange> changes_between(const Limits& from, const Limits& to) {
  std::vector<LimitChange> changes;
  for (std::uint32_t i = 0; i < all_quotas().size(); ++i) {
    const auto limit = all_quotas()[i].limit;
    if (from.*limit != to.*limit) changes.push_back({LimitChange::kEveryDomain, i, to.*limit});
  }
  return changes;
}

v1::ListQuotasResponse list_quotas(std::string_view component, const Limits& global,
                                   std::span<const QuotaRow> rows) {
  v1::ListQuotasResponse response;
  const auto add = [&](std::string_view subject, std::string_view name, std::uint64_t limit,
                       std::uint64_t used) {
    v1::Quota& quota = *response.add_quotas();
    quota.set_component(std::string(component));
    quota.set_subject(std::string(subject));
    quota.set_name(std::string(name));
    quota.set_limit(limit);
    quota.set_used(used);
    return quota.ByteSizeLong() + 4;
  };
  std::size_t bytes = 0;
  for (const Quota& quota : all_quotas()) bytes += add("", quota.name, global.*quota.limit, 0);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (bytes > kMaxAnswer) {
      add("(more)", std::to_string(rows.size() - i) + " lines, too many to show", 0, 0);
      break;
    }
    const QuotaRow& row = rows[i];
    bytes += add(std::string(kDomainPrefix) + std::to_string(row.domid), row.name, row.limit, row.used);
  }
  return response;
}

Result<LimitChange> limit_change_of(const v1::SetQuotaRequest& request) {
  const auto quota = find_quota(request.name());
  if (!quota) {
    return failure(ErrorKind::kInvalid, "no quota is named \"" + request.name() + "\"; known are " + names());
  }
  if (request.value() > INT32_MAX) {
    return failure(ErrorKind::kInvalid, "a quota is a number from 0 (no check) to 2147483647");
  }
  LimitChange change{LimitChange::kEveryDomain, static_cast<std::uint32_t>(*quota),
                     static_cast<std::uint32_t>(request.value())};
  if (request.subject().empty()) return change;
  const std::string_view subject = request.subject();
  const auto domid = subject.starts_with(kDomainPrefix) ? parse_limit(subject.substr(kDomainPrefix.size()))
                                                        : std::optional<std::uint32_t>();
  if (!domid || *domid >= kFirstReservedDomain) {
    return failure(ErrorKind::kInvalid,
                   "a quota is one \"domain\" and its number's, not \"" + request.subject() + "\"'s");
  }
  change.domid = *domid;
  return change;
}

std::string describe(const QuotaWarning& warning) {
  std::string text = "domain " + std::to_string(warning.domid) + " uses " + std::to_string(warning.used) +
                     " of " + std::string(warning.name);
  text += warning.hard ? ": a request was refused, its limit is " : ", its soft limit is ";
  return text + std::to_string(warning.limit);
}

}  // namespace bulkhead::xenstore
