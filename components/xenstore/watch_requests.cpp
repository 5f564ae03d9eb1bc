// WATCH, UNWATCH, RESET_WATCHES.
#include "components/xenstore/events.h"
#include "components/xenstore/state.h"

namespace bulkhead::xenstore::core {
namespace {

struct WatchArguments {
  std::string_view path;  // resolved
  std::string_view token;
  std::uint32_t prefix = 0;
  std::int32_t depth = -1;
};

ErrorCode parse_watch(Call& call, WatchArguments& parsed) {
  std::size_t count = count_arguments(call.payload);
  if (count != 2 && count != 3) return ErrorCode::kInvalid;
  std::string_view rest = call.payload;
  std::string_view name = take_argument(rest).value_or("");
  parsed.token = take_argument(rest).value_or("");
  if (count == 3 && (call.session.domain->features & kFeatureWatchDepth) == 0) return ErrorCode::kInvalid;
  if (count == 3) {
    std::int64_t depth = leading_number(take_argument(rest).value_or(""));
    if (depth < 0) return ErrorCode::kInvalid;
    parsed.depth = static_cast<std::int32_t>(std::min<std::int64_t>(depth, kMaxAbsolutePath));
  }
  parsed.path = resolve(call, name);
  parsed.prefix = static_cast<std::uint32_t>(parsed.path.size() - name.size());
  bool valid = is_special(name) ? name.size() <= kMaxRelativePath : call.is_allowed_path(parsed.path);
  return valid ? ErrorCode::kNone : ErrorCode::kInvalid;
}

ErrorCode check_watch_limits(Call& call, const WatchArguments& watch) {
  if (call.session.privileged()) return ErrorCode::kNone;
  Domain& domain = *call.session.domain;
  if (exceeds(static_cast<std::uint64_t>(domain.watches) + 1, domain.limits.watches))
    return ErrorCode::kTooBig;
  std::uint64_t bytes = static_cast<std::uint64_t>(domain.memory) + watch.path.size() + watch.token.size();
  return exceeds(bytes, domain.limits.memory) ? call.out_of_memory(domain) : ErrorCode::kNone;
}

}  // namespace

ErrorCode handle_watch(Call& call) {
  WatchArguments parsed;
  if (ErrorCode error = parse_watch(call, parsed); error != ErrorCode::kNone) return error;
  if (call.state.watches.find(call.session.id, parsed.path, parsed.token) != nullptr)
    return ErrorCode::kExists;
  if (ErrorCode error = check_watch_limits(call, parsed); error != ErrorCode::kNone) return error;
  const Watch& watch = call.state.add_watch(call.session, {.connection = call.session.id,
                                                           .sequence = ++call.state.watch_sequence,
                                                           .path = std::string(parsed.path),
                                                           .token = std::string(parsed.token),
                                                           .prefix = parsed.prefix,
                                                           .depth = parsed.depth});
  call.mutated = true;
  call.acknowledge();
  fire_initial(watch, call.out);
  return ErrorCode::kNone;
}

ErrorCode handle_unwatch(Call& call) {
  if (count_arguments(call.payload) != 2) return ErrorCode::kInvalid;
  std::string_view rest = call.payload;
  std::string_view path = resolve(call, take_argument(rest).value_or(""));
  std::string_view token = take_argument(rest).value_or("");
  bool known_syntax = is_special(path) || is_path(path);
  Watch* watch = known_syntax ? call.state.watches.find(call.session.id, path, token) : nullptr;
  if (watch == nullptr) return ErrorCode::kNoEntry;
  call.state.drop_watch(call.session, *watch);
  call.mutated = true;
  call.acknowledge();
  return ErrorCode::kNone;
}

ErrorCode handle_reset_watches(Call& call) {
  call.mutated = !call.session.watches.empty() || !call.session.transactions.empty();
  call.state.reset_session(call.session);
  call.transaction = nullptr;
  call.acknowledge();
  return ErrorCode::kNone;
}

}  // namespace bulkhead::xenstore::core
