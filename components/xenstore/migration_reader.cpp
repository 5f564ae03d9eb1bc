#include <algorithm>
#include <map>
#include <set>
#include <string_view>

#include "components/xenstore/field_reader.h"
#include "components/xenstore/migration_format.h"
#include "components/xenstore/migration_stream.h"

namespace bulkhead::xenstore::migration {
namespace {

using core::FieldReader;

constexpr std::size_t kHeaderSize = 16;
constexpr std::size_t kRecordHead = 8;  // type, length
constexpr std::size_t kMaxPadding = 7;

std::unexpected<Error> refused(std::string message) {
  return failure(ErrorKind::kInvalid, std::move(message));
}

std::uint32_t big_endian(std::span<const std::byte> bytes) {
  std::uint32_t value = 0;
  for (std::byte byte : bytes) value = value << 8U | std::to_integer<std::uint32_t>(byte);
  return value;
}

// A text of `size` bytes of which the last is its NUL.
std::optional<std::string_view> terminated(FieldReader& fields, std::size_t size) {
  const std::string_view text = as_text(fields.take(size));
  if (text.empty() || text.find('\0') != text.size() - 1) return std::nullopt;
  return text.substr(0, text.size() - 1);
}

std::vector<std::byte> copied(std::span<const std::byte> bytes) {
  return {bytes.begin(), bytes.end()};
}

class StreamReader {
 public:
  Result<Stream> read(std::span<const std::byte> bytes);

 private:
  Status read_header(std::span<const std::byte> bytes);
  Status read_record(RecordType type, FieldReader& fields);
  Status read_global(FieldReader& fields);
  Status read_connection(FieldReader& fields);
  static Status read_end_of(Connection& connection, std::uint16_t type, FieldReader& fields);
  Status read_watch(FieldReader& fields, bool deep);
  Status read_transaction(FieldReader& fields);
  Status read_node(FieldReader& fields);
  static Status read_permissions(Node& node, std::size_t count, FieldReader& fields);
  Status read_global_quotas(FieldReader& fields);
  Status read_domain(FieldReader& fields);
  Connection* connection(std::uint32_t id) {
    const auto found = by_id_.find(id);
    return found == by_id_.end() ? nullptr : &stream_.connections[found->second];
  }

  Stream stream_;
  std::map<std::uint32_t, std::size_t> by_id_;  // connections
  std::set<std::pair<std::uint32_t, std::uint32_t>> transactions_;
  std::set<std::uint16_t> domains_;
  bool ended_ = false;
};

Status StreamReader::read_header(std::span<const std::byte> bytes) {
  if (bytes.size() < kHeaderSize || as_text(bytes.first(kIdent.size())) != kIdent) {
    return refused("this is no xenstore migration stream");
  }
  stream_.version = big_endian(bytes.subspan(kIdent.size(), 4));
  const std::uint32_t flags = big_endian(bytes.subspan(kIdent.size() + 4, 4));
  if (stream_.version < kVersion1 || stream_.version > kVersion2) {
    return refused("version " + std::to_string(stream_.version) + " is not known");
  }
  if ((flags & kBigEndian) != 0) return refused("big-endian, of another kind of machine");
  if (flags != 0) return refused("unknown flags " + std::to_string(flags));
  return {};
}

Status StreamReader::read_global(FieldReader& fields) {
  if (stream_.descriptors) return refused("a second time");
  Descriptors& descriptors = stream_.descriptors.emplace();
  descriptors.listener = fields.number<std::int32_t>();
  descriptors.event_channels = fields.number<std::int32_t>();
  return {};
}

Status StreamReader::read_end_of(Connection& connection, std::uint16_t type, FieldReader& fields) {
  if (type == kSocketType) {
    connection.end = Socket{.descriptor = fields.number<std::int32_t>()};
    fields.take(4);
    return {};
  }
  if (type != kRingType) return refused("unknown type of connection " + std::to_string(type));
  Ring ring;
  ring.domid = fields.number<std::uint16_t>();
  const auto target = fields.number<std::uint16_t>();
  if (target != kNoTarget) ring.target = target;
  ring.port = fields.number<std::uint32_t>();
  connection.end = ring;
  return {};
}

Status StreamReader::read_connection(FieldReader& fields) {
  Connection read;
  read.id = fields.number<std::uint32_t>();
  const auto type = fields.number<std::uint16_t>();
  const auto additional = fields.number<std::uint16_t>();
  if (Status ok = read_end_of(read, type, fields); !ok) return ok;
  const auto in_size = fields.number<std::uint16_t>();
  read.partial = fields.number<std::uint16_t>();
  const auto out_size = fields.number<std::uint32_t>();
  read.input = copied(fields.take(in_size));
  read.output = copied(fields.take(out_size));
  if (fields.ran_out()) return refused("its data do not fit into it");
  if (read.partial > read.output.size()) return refused("a partial response longer than the output");
  if ((additional & ~kHasUniqueId) != 0) return refused("unknown additional fields");
  if ((additional & kHasUniqueId) != 0) {
    const std::size_t data_end = kConnectionHead + in_size + out_size;
    fields.take(aligned(data_end) - data_end);
    read.unique_id = fields.number<std::uint64_t>();
  }
  const bool is_new = read.id != 0 && by_id_.emplace(read.id, stream_.connections.size()).second;
  if (!is_new) return refused("impossible or repeated connection " + std::to_string(read.id));
  stream_.connections.push_back(std::move(read));
  return {};
}

Status StreamReader::read_watch(FieldReader& fields, bool deep) {
  if (deep && stream_.version < kVersion2) return refused("unknown in version 1");
  const auto id = fields.number<std::uint32_t>();
  const auto path_size = fields.number<std::uint16_t>();
  const auto token_size = fields.number<std::uint16_t>();
  Watch watch;
  if (deep) {
    const auto depth = fields.number<std::uint16_t>();
    if (depth != kAnyDepth) watch.depth = depth;
    fields.take(2);
  }
  const auto path = terminated(fields, path_size);
  const auto token = terminated(fields, token_size);
  if (!path || !token) return refused("path or token is no text");
  Connection* const owner = connection(id);
  if (owner == nullptr) return refused("of unknown connection " + std::to_string(id));
  watch.path = *path;
  watch.token = *token;
  owner->watches.push_back(std::move(watch));
  return {};
}

Status StreamReader::read_transaction(FieldReader& fields) {
  const auto id = fields.number<std::uint32_t>();
  const auto transaction = fields.number<std::uint32_t>();
  Connection* const owner = connection(id);
  if (owner == nullptr) return refused("of unknown connection " + std::to_string(id));
  if (transaction == 0 || !transactions_.emplace(id, transaction).second) {
    return refused("impossible or repeated transaction " + std::to_string(transaction));
  }
  owner->transactions.push_back(transaction);
  return {};
}

Status StreamReader::read_permissions(Node& node, std::size_t count, FieldReader& fields) {
  constexpr std::size_t kEntrySize = 4;
  if (count > fields.left() / kEntrySize) return refused("impossible number of permissions");
  node.permissions.resize(count);
  for (Permission& entry : node.permissions) {
    entry.access = static_cast<char>(fields.number<std::uint8_t>());
    const auto flags = fields.number<std::uint8_t>();
    entry.stale = flags == kStale;
    entry.domid = fields.number<std::uint16_t>();
    if (!std::string_view("nrwb").contains(entry.access) || flags > kStale) {
      return refused("impossible permission");
    }
  }
  return {};
}

Status StreamReader::read_node(FieldReader& fields) {
  Node node;
  node.connection = fields.number<std::uint32_t>();
  node.transaction = fields.number<std::uint32_t>();
  const auto path_size = fields.number<std::uint16_t>();
  const auto value_size = fields.number<std::uint16_t>();
  node.access = fields.number<std::uint16_t>();
  const auto permissions = fields.number<std::uint16_t>();
  if (Status ok = read_permissions(node, permissions, fields); !ok) return ok;
  const auto path = terminated(fields, path_size);
  if (!path) return refused("its path is no text");
  node.path = *path;
  node.value = copied(fields.take(value_size));
  if (node.connection == 0) {
    node.transaction = node.access = 0;
    if (node.permissions.empty()) return refused("nobody owns " + node.path);
  } else if (!transactions_.contains({node.connection, node.transaction})) {
    return refused("of unknown transaction " + std::to_string(node.transaction));
  }
  stream_.nodes.push_back(std::move(node));
  return {};
}

// `counts` values, then as many names; the values of each list are filled in order.
Status read_quotas(FieldReader& fields, std::span<std::vector<QuotaValue>* const> lists) {
  for (std::vector<QuotaValue>* list : lists) {
    for (QuotaValue& quota : *list) quota.value = fields.number<std::uint32_t>();
  }
  const std::string_view all = as_text(fields.take(fields.left()));
  std::size_t at = 0;
  for (std::vector<QuotaValue>* list : lists) {
    for (QuotaValue& quota : *list) {
      const std::size_t end = all.find('\0', at);
      if (end == std::string_view::npos) return refused("a quota has no name");
      quota.name = all.substr(at, end - at);
      at = end + 1;
    }
  }
  if (all.size() - at > kMaxPadding) return refused("more names than quotas");
  return {};
}

// The least a quota takes: its value and the NUL of its name.
bool can_hold(const FieldReader& fields, std::size_t quotas) {
  return quotas <= fields.left() / (sizeof(std::uint32_t) + 1);
}

Status StreamReader::read_global_quotas(FieldReader& fields) {
  if (stream_.quotas) return refused("a second time");
  GlobalQuotas& quotas = stream_.quotas.emplace();
  const auto of_domains = fields.number<std::uint16_t>();
  const auto of_all = fields.number<std::uint16_t>();
  if (!can_hold(fields, std::size_t{of_domains} + of_all)) return refused("impossible number of quotas");
  quotas.of_domains.resize(of_domains);
  quotas.of_all.resize(of_all);
  std::vector<QuotaValue>* const lists[] = {&quotas.of_domains, &quotas.of_all};
  return read_quotas(fields, lists);
}

Status StreamReader::read_domain(FieldReader& fields) {
  DomainData domain;
  domain.domid = fields.number<std::uint16_t>();
  const auto count = fields.number<std::uint16_t>();
  domain.features = fields.number<std::uint32_t>();
  if (stream_.version < kVersion2) domain.features = 0;
  if (!can_hold(fields, count)) return refused("impossible number of quotas");
  domain.quotas.resize(count);
  std::vector<QuotaValue>* const lists[] = {&domain.quotas};
  if (Status ok = read_quotas(fields, lists); !ok) return ok;
  if (!domains_.insert(domain.domid).second) return refused("a second time");
  stream_.domains.push_back(std::move(domain));
  return {};
}

Status StreamReader::read_record(RecordType type, FieldReader& fields) {
  switch (type) {
    case RecordType::kEnd:
      ended_ = true;
      return {};
    case RecordType::kGlobal:
      return read_global(fields);
    case RecordType::kConnection:
      return read_connection(fields);
    case RecordType::kWatch:
      return read_watch(fields, false);
    case RecordType::kTransaction:
      return read_transaction(fields);
    case RecordType::kNode:
      return read_node(fields);
    case RecordType::kGlobalQuotas:
      return read_global_quotas(fields);
    case RecordType::kDomain:
      return read_domain(fields);
    case RecordType::kDeepWatch:
      return read_watch(fields, true);
  }
  return refused("unknown type");
}

Result<Stream> StreamReader::read(std::span<const std::byte> bytes) {
  if (Status ok = read_header(bytes); !ok) return forward(std::move(ok));
  for (std::size_t at = kHeaderSize; !ended_ || at != bytes.size();) {
    const std::string where = "byte " + std::to_string(at);
    if (ended_) return refused(where + ": something follows the end record");
    FieldReader head(bytes.subspan(at).first(std::min(kRecordHead, bytes.size() - at)));
    const auto type = head.number<std::uint32_t>();
    const auto length = head.number<std::uint32_t>();
    // What pads a record counts into its length with every daemon there is, and does not in the
    // specification.
    const std::size_t left = bytes.size() - std::min(bytes.size(), at + kRecordHead);
    if (head.ran_out() || aligned(length) > left) return refused(where + ": truncated");
    FieldReader fields(bytes.subspan(at + kRecordHead, length));
    Status ok = read_record(static_cast<RecordType>(type), fields);
    if (ok && fields.ran_out()) ok = refused("shorter than its fields");
    if (ok && fields.left() > kMaxPadding) ok = refused("longer than its fields");
    if (!ok) return forward(std::move(ok), where + ", record type " + std::to_string(type));
    at += kRecordHead + aligned(length);
  }
  return std::move(stream_);
}

}  // namespace

Result<Stream> decode(std::span<const std::byte> bytes) {
  StreamReader reader;
  auto stream = reader.read(bytes);
  if (!stream) return forward(std::move(stream), "xenstore stream");
  return stream;
}

}  // namespace bulkhead::xenstore::migration
