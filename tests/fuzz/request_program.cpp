#include "tests/fuzz/request_program.h"

#include "components/xenstore/protocol.h"

namespace bulkhead::fuzz {
namespace {

using namespace xenstore;  // NOLINT(google-build-using-namespace): what is tested

using std::string_literals::operator""s;

constexpr std::uint32_t kRawOperation = 100;
constexpr std::uint32_t kManyChildren = 101;
constexpr std::uint32_t kEnds = 102;
constexpr std::uint32_t kBegins = 103;
constexpr std::uint32_t kShutsDown = 104;
constexpr std::uint32_t kSnapshots = 105;
constexpr std::uint32_t kSlices = 106;

// Chosen by a byte: the more often, the likelier.
constexpr std::uint32_t kOperations[] = {kWrite,
                                         kWrite,
                                         kWrite,
                                         kWrite,
                                         kRead,
                                         kRead,
                                         kDirectory,
                                         kDirectory,
                                         kGetPerms,
                                         kMkdir,
                                         kMkdir,
                                         kRm,
                                         kRm,
                                         kSetPerms,
                                         kSetPerms,
                                         kSetPerms,
                                         kWatch,
                                         kWatch,
                                         kUnwatch,
                                         kUnwatch,
                                         kTransactionEnd,
                                         kTransactionEnd,
                                         kTransactionEnd,
                                         kTransactionStart,
                                         kDirectoryPart,
                                         kIntroduce,
                                         kRelease,
                                         kSetTarget,
                                         kResume,
                                         kIsDomainIntroduced,
                                         kGetDomainPath,
                                         kTransactionStart,
                                         kResetWatches,
                                         kControl,
                                         kControl,
                                         kRawOperation,
                                         kRawOperation,
                                         kManyChildren,
                                         kEnds,
                                         kBegins,
                                         kShutsDown,
                                         kSnapshots,
                                         kSlices,
                                         kSetQuota,
                                         kSetQuota,
                                         kGetQuota,
                                         kSetFeature,
                                         kGetFeature};

constexpr const char* kNames[] = {"a", "b", "a-b", "backend-vbd-1", "backend-vbd-2", "Z", "@", "0"};
constexpr char kLetters[] = {'n', 'r', 'w', 'b'};

}  // namespace

Request Step::request() const {
  return {.header = {.type = type,
                     .request_id = 1,
                     .transaction_id = transaction,
                     .length = static_cast<std::uint32_t>(payload.size())},
          .payload = as_bytes(payload)};
}

std::string Step::describe() const {
  std::string text = "kind " + std::to_string(static_cast<int>(kind)) + " connection " +
                     std::to_string(connection) + " domain " + std::to_string(domid) + " type " +
                     std::to_string(type) + " transaction " + std::to_string(transaction) + " payload ";
  for (const char c : payload) text += c == '\0' ? '|' : c;
  return text;
}

std::optional<Step> RequestProgram::next() {
  if (connected_ < kDomainOf.size()) {
    const ConnectionId id = connected_++;
    return Step{.kind = Step::Kind::kConnect, .connection = id, .domid = kDomainOf[id]};
  }
  if (pending_.empty()) {
    if (input_.done()) return std::nullopt;
    pending_.push_back(decode());
  }
  Step step = std::move(pending_.front());
  pending_.pop_front();
  return step;
}

void RequestProgram::learn(const Step& step, std::uint32_t reply_type, std::string_view reply) {
  if (step.type != kTransactionStart || reply_type != kTransactionStart) return;
  if (step.connection >= transactions_.size()) return;
  auto& known = transactions_[step.connection];
  known = {static_cast<std::uint32_t>(leading_number(reply)), known[0]};
}

Step RequestProgram::decode() {
  const std::uint32_t operation = input_.one_of(kOperations);
  const auto id = [this] { return static_cast<ConnectionId>(input_.pick(kDomainOf.size())); };
  const auto domain = [this] { return static_cast<std::uint32_t>(input_.pick(8)); };
  switch (operation) {
    case kRawOperation:
      return raw_request();
    case kManyChildren:
      many_children();
      return {.kind = Step::Kind::kSlice};
    case kEnds:
      return {.kind = Step::Kind::kDisconnect, .connection = id()};
    case kBegins:
      return {.kind = Step::Kind::kConnect, .connection = id(), .domid = domain()};
    case kShutsDown:
      return {.kind = Step::Kind::kShutDown, .domid = domain()};
    case kSnapshots:
      return {.kind = Step::Kind::kSnapshot};
    case kSlices:
      return {.kind = Step::Kind::kSlice};
    default:
      return request(operation);
  }
}

Step RequestProgram::request(std::uint32_t type) {
  const std::uint8_t who = input_.byte();
  Step step{.connection = who & 7U, .type = type};
  step.transaction = transaction(step.connection, who >> 3U & 3U);
  step.payload = payload(type);
  if (who >> 5U == 7) damage(step.payload);
  if (step.payload.size() > kMaxPayload) step.payload.resize(kMaxPayload);
  return step;
}

// Nothing about it makes sense, except by chance.
Step RequestProgram::raw_request() {
  const std::uint8_t who = input_.byte();
  Step step{.connection = who & 7U, .type = static_cast<std::uint32_t>(input_.pick(32))};
  step.transaction = transaction(step.connection, who >> 3U & 3U);
  step.payload = input_.text(input_.byte());
  return step;
}

void RequestProgram::many_children() {
  const std::uint8_t who = input_.byte();
  const std::string parent = path();
  const std::size_t length = 1 + input_.byte();
  for (std::size_t count = input_.pick(40); count > 0; --count) {
    Step step{.connection = who & 7U, .type = kMkdir};
    step.transaction = transaction(step.connection, who >> 3U & 3U);
    step.payload = parent + "/" + std::string(length, static_cast<char>('a' + count % 26)) +
                   std::to_string(count) + "\0"s;
    if (step.payload.size() > kMaxPayload) continue;
    pending_.push_back(std::move(step));
  }
}

std::uint32_t RequestProgram::transaction(ConnectionId connection, std::size_t choice) {
  if (choice == 0) return 0;
  return transactions_[connection][choice == 3 ? 1 : 0];
}

void RequestProgram::damage(std::string& payload) {
  const std::uint8_t how = input_.byte();
  if (payload.empty()) return;
  switch (how % 4) {
    case 0:
      payload.pop_back();
      return;
    case 1:
      payload[how / 4 % payload.size()] = static_cast<char>(input_.byte());
      return;
    case 2:
      payload.insert(how / 4 % payload.size(), 1, '\0');
      return;
    default:
      payload += input_.text(how / 4);
  }
}

std::string RequestProgram::odd_path() {
  static const std::string kOdd[] = {"",
                                     "/",
                                     "//",
                                     "/a/",
                                     "/a b",
                                     "a//b",
                                     "@introduceDomain",
                                     "@releaseDomain",
                                     "/" + std::string(3071, 'x'),
                                     "/" + std::string(3072, 'x'),
                                     "/local/domain/1/" + std::string(2048, 'x'),
                                     "/local/domain/1",
                                     "/tool/xenstored",
                                     std::string(300, 'r')};
  const std::size_t which = input_.pick(std::size(kOdd) + 1);
  if (which < std::size(kOdd)) return kOdd[which];
  std::string deep;
  for (std::size_t depth = input_.byte(); depth > 0; --depth) deep += "/a";
  return deep;
}

std::string RequestProgram::path() {
  const std::uint8_t shape = input_.byte();
  if ((shape & 7U) == 7) return odd_path();
  std::string path = (shape & 7U) < 4 ? "/" : "";
  if ((shape & 7U) == 6) path = "/local/domain/" + std::to_string(shape >> 5U) + "/";
  const std::uint8_t names = input_.byte();
  path += kNames[names & 7U];
  if ((shape & 8U) != 0) path += "/"s + kNames[names >> 3U & 7U];
  if ((shape & 16U) != 0) path += "/"s + kNames[names >> 6U];
  return path;
}

std::string RequestProgram::watch_path() {
  static constexpr const char* kSpecial[] = {"@introduceDomain", "@releaseDomain", "@releaseDomain/2",
                                             "@introduceDomain/1", "@other"};
  const std::size_t which = input_.pick(16);
  return which < std::size(kSpecial) ? kSpecial[which] : path();
}

std::string RequestProgram::token() {
  const std::uint8_t which = input_.byte();
  return which < 250 ? std::string(1, static_cast<char>('s' + which % 3)) : std::string(500, 't');
}

std::string RequestProgram::value() {
  const std::uint8_t shape = input_.byte();
  const std::size_t length = shape < 200 ? shape % 8U : (shape - 200U) * 60U;
  return std::string(length, static_cast<char>(shape));
}

std::string RequestProgram::domid() {
  static constexpr const char* kOdd[] = {"",      "abc", "4294967297", "-1",   "32752",
                                         "32751", " 2x", "0x1",        "65535"};
  const std::uint8_t which = input_.byte();
  if (which < 240) return std::to_string(which % 8);
  return kOdd[which % std::size(kOdd)];
}

std::string RequestProgram::permissions() {
  static constexpr const char* kOdd[] = {
      "r0x2", "w-1", "b+3", "n010", "r32751", "q1", "r", "w 1", "r99999999999999999999"};
  const std::uint8_t shape = input_.byte();
  std::string text;
  for (std::size_t count = 1 + shape % 4U + (shape >= 240 ? 3U : 0U); count > 0; --count) {
    const std::uint8_t entry = input_.byte();
    if (entry >= 240) {
      text += kOdd[entry % std::size(kOdd)];
    } else {
      text += kLetters[entry & 3U] + std::to_string(entry >> 2U & 7U);
    }
    text += '\0';
  }
  return text;
}

std::string RequestProgram::control() {
  static const std::string kCommands[] = {"check\0"s, "quota\0"s,   "quota\0001\0"s, "quota-soft\0"s,
                                          "help\0"s,  "log\0on\0"s, "print\0text\0"s};
  const std::size_t which = input_.pick(std::size(kCommands) * 3);
  if (which < std::size(kCommands)) return kCommands[which];
  const std::string head = which % 2 == 0 ? "quota\0set\0"s : "quota-soft\0set\0"s;
  const std::string name = quota_name() + "\0"s;
  return head + name + quota_value() + "\0"s;
}

std::string RequestProgram::quota_name() {
  static constexpr const char* kQuotas[] = {
      "nodes",       "watches",  "transactions", "outstanding", "transaction-nodes", "memory",
      "node-size",   "path-max", "permissions",  "soft-memory", "node-permissions",  "path-depth",
      "undelivered", "nothing"};
  return input_.one_of(kQuotas);
}

std::string RequestProgram::quota_value() {
  const std::size_t scale = input_.pick(8);
  if (scale >= 6) return scale == 6 ? "0" : "7x";
  return std::to_string(std::uint64_t{input_.byte()} << (4 * scale));
}

std::string RequestProgram::payload(std::uint32_t type) {
  static constexpr const char* kDepths[] = {"0", "1", "2", "-1", "99999"};
  const std::string end(1, '\0');
  switch (type) {
    case kWrite:
      return path() + end + value();
    case kSetPerms:
      return watch_path() + end + permissions();
    case kWatch: {
      std::string text = watch_path() + end + token() + end;
      const std::size_t depth = input_.pick(2 * std::size(kDepths));
      return depth < std::size(kDepths) ? text + kDepths[depth] + end : text;
    }
    case kUnwatch:
      return watch_path() + end + token() + end;
    case kTransactionStart:
    case kResetWatches:
      return end;
    case kTransactionEnd:
      return (input_.pick(5) == 0 ? "F" : "T") + end;
    case kIntroduce:
      return domid() + end + "12" + end + domid() + end;
    case kRelease:
    case kResume:
    case kIsDomainIntroduced:
    case kGetDomainPath:
      return domid() + end;
    case kSetTarget:
      return domid() + end + domid() + end;
    case kDirectoryPart:
      return path() + end + std::to_string(input_.byte() * 20) + end;
    case kControl:
      return control();
    case kGetQuota:
      return input_.pick(5) == 0 ? "" : (input_.pick(2) == 0 ? domid() + end : "") + quota_name() + end;
    case kSetQuota: {
      const std::string who = input_.pick(2) == 0 ? domid() + end : "";
      const std::string name = quota_name() + end;
      return who + name + quota_value() + end;
    }
    case kGetFeature:
      return input_.pick(2) == 0 ? "" : domid() + end;
    case kSetFeature:
      return domid() + end + std::to_string(input_.pick(9)) + end;
    default:
      return path() + end;
  }
}

void ReplyOnly::reply(std::uint32_t reply_type, std::span<const std::byte> reply_payload) {
  type = reply_type;
  payload = as_text(reply_payload);
}

bool carry_out(Engine& engine, const Step& step, Output& out) {
  switch (step.kind) {
    case Step::Kind::kRequest:
      return engine.execute(step.connection, step.request(), out).mutated;
    case Step::Kind::kConnect:
      engine.connect(step.connection, step.domid);
      return true;
    case Step::Kind::kDisconnect:
      engine.disconnect(step.connection, out);
      return true;
    case Step::Kind::kShutDown:
      engine.domain_shut_down(step.domid, out);
      return true;
    default:
      return false;
  }
}

Engine run_program(Input& input, std::size_t max_steps) {
  Engine engine(input.pick(2) == 0 ? Limits{} : tight_limits());
  RequestProgram program(input);
  for (std::size_t steps = 0; steps < max_steps; ++steps) {
    const auto step = program.next();
    if (!step) break;
    ReplyOnly out;
    carry_out(engine, *step, out);
    program.learn(*step, out.type, out.payload);
  }
  return engine;
}

Limits tight_limits() {
  Limits limits;
  limits.nodes = 12;
  limits.watches = 5;
  limits.transactions = 2;
  limits.transaction_nodes = 9;
  limits.memory = 1500;
  limits.node_size = 150;
  limits.permissions = 3;
  return limits;
}

}  // namespace bulkhead::fuzz
