// Limits as the operator meets them: settings of the component, and what the core asks the active instance.
#pragma once

#include <google/protobuf/map.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bulkhead/v1/bulkhead.pb.h"
#include "components/xenstore/engine.h"

namespace bulkhead::xenstore {

// With what a fresh state begins: the defaults, changed by settings "quota-<name>". kInvalid names the one
// that is unknown or no number.
Result<Limits> limits_from(const google::protobuf::Map<std::string, std::string>& settings);

// What makes the one set of global limits of the other.
std::vector<LimitChange> changes_between(const Limits& from, const Limits& to);

// The global limits (subject: none), then what each domain may use and uses, as much of it as fits one
// answer.
v1::ListQuotasResponse list_quotas(std::string_view component, const Limits& global,
                                   std::span<const QuotaRow> rows);

// kInvalid or kNotFound, in words for the operator, if it names no limit, no possible value or no known
// domain.
Result<LimitChange> limit_change_of(const v1::SetQuotaRequest& request);

// "domain 5 holds 2097160 bytes, its soft limit is 2097152".
std::string describe(const QuotaWarning& warning);

}  // namespace bulkhead::xenstore
