// Requests that look at nodes: DIRECTORY, DIRECTORY_PART, READ, GET_PERMS; and what all node requests share.
#include "components/xenstore/node_requests.h"

namespace bulkhead::xenstore::core {
namespace {

// An absent node tells an unprivileged caller so only if the nearest existing ancestor grants the wanted
// rights. The answer then rests on that ancestor, and on nothing existing below it.
ErrorCode absent_node(Call& call, std::string_view path, std::uint8_t needed) {
  if (call.session.privileged()) return ErrorCode::kNoEntry;
  Tree::Nearest nearest = call.tree().nearest(path);
  if (!call.state.sound(path.substr(0, nearest.length), *nearest.node)) return ErrorCode::kIo;
  for (std::string_view relied : {path.substr(0, nearest.length), first_missing(path, nearest.length)}) {
    if (ErrorCode error = note(call, relied, kReliedOnData); error != ErrorCode::kNone) return error;
  }
  bool granted = (call.state.rights(call.session, *nearest.node) & needed) != 0;
  return granted ? ErrorCode::kNoEntry : ErrorCode::kAccess;
}

}  // namespace

std::string_view first_missing(std::string_view path, std::size_t existing) {
  std::size_t from = existing > 1 ? existing + 1 : 1;
  return path.substr(0, path.find('/', from));
}

ErrorCode find_node(Call& call, std::optional<std::string_view> name, std::uint8_t needed,
                    std::uint8_t reliance, Target& target) {
  if (!name) return ErrorCode::kInvalid;
  target.path = resolve(call, *name);
  if (!call.is_allowed_path(target.path)) return ErrorCode::kInvalid;
  target.node = call.tree().find(target.path);
  if (target.node != nullptr && !call.state.sound(target.path, *target.node)) return ErrorCode::kIo;
  if (ErrorCode error = note(call, target.path, reliance); error != ErrorCode::kNone) return error;
  if (target.node == nullptr) return absent_node(call, target.path, needed);
  bool granted = (call.state.rights(call.session, *target.node) & needed) == needed;
  return granted ? ErrorCode::kNone : ErrorCode::kAccess;
}

ErrorCode handle_directory(Call& call) {
  Target target;
  ErrorCode error =
      find_node(call, only_argument(call.payload), kMayRead, kReliedOnData | kReliedOnChildren, target);
  if (error != ErrorCode::kNone) return error;
  if (target.node->children.bytes() > kMaxPayload) return ErrorCode::kTooBig;
  std::array<char, kMaxPayload> list;
  char* end = list.data();
  for (ChildCursor child(target.node->children); !child.done(); child.next()) {
    std::string_view name = child.node().name();
    end = std::copy(name.begin(), name.end(), end);
    *end++ = '\0';
  }
  call.reply(std::string_view(list.data(), static_cast<std::size_t>(end - list.data())));
  return ErrorCode::kNone;
}

// The reply is the node's generation and, from the byte offset on, as many whole names as fit; an empty name
// ends the list.
ErrorCode handle_directory_part(Call& call) {
  if (count_arguments(call.payload) != 2) return ErrorCode::kInvalid;
  std::string_view rest = call.payload;
  auto name = take_argument(rest);
  auto offset = static_cast<std::uint32_t>(leading_number(take_argument(rest).value_or("")));
  Target target;
  ErrorCode error = find_node(call, name, kMayRead, kReliedOnData | kReliedOnChildren, target);
  if (error != ErrorCode::kNone) return error;

  std::string part = std::to_string(target.node->generation);
  part += '\0';
  std::uint64_t inside = 0;
  ChildCursor child(target.node->children, offset, inside);
  for (; !child.done(); child.next(), inside = 0) {
    std::string_view child_name = child.node().name().substr(inside);
    if (part.size() + child_name.size() + 2 > kMaxPayload) break;
    part += child_name;
    part += '\0';
  }
  if (child.done()) part += '\0';
  call.reply(part);
  return ErrorCode::kNone;
}

ErrorCode handle_read(Call& call) {
  Target target;
  ErrorCode error = find_node(call, only_argument(call.payload), kMayRead, kReliedOnData, target);
  if (error != ErrorCode::kNone) return error;
  call.reply(target.node->value());
  return ErrorCode::kNone;
}

ErrorCode handle_get_perms(Call& call) {
  Target target;
  ErrorCode error = find_node(call, only_argument(call.payload), kMayRead, kReliedOnData, target);
  if (error != ErrorCode::kNone) return error;
  std::string list;
  append_permissions(*target.node->permissions, list);
  if (list.size() > kMaxPayload) return ErrorCode::kTooBig;
  call.reply(list);
  return ErrorCode::kNone;
}

}  // namespace bulkhead::xenstore::core
