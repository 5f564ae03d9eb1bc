#include <cstring>
#include <limits>
#include <string_view>

#include "components/xenstore/migration_format.h"
#include "components/xenstore/migration_stream.h"
#include "components/xenstore/protocol.h"

namespace bulkhead::xenstore::migration {
namespace {

// Appends records. The first thing that does not fit into its field is remembered.
class StreamWriter {
 public:
  Result<std::vector<std::byte>> write(const Stream& stream);

 private:
  void write_header();
  void write_connection(const Connection& connection);
  void write_end_of(const Connection& connection);
  void write_watch(std::uint32_t connection, const Watch& watch);
  void write_node(const Node& node);
  void write_domain(const DomainData& domain);
  void write_quotas(std::span<const std::vector<QuotaValue>* const> lists);

  void begin(RecordType type) {
    start_ = out_.size();
    number(static_cast<std::uint32_t>(type));
    number(std::uint32_t{0});
  }
  // Padding counts into the length, as every daemon has it.
  void end() {
    pad();
    const std::uint32_t length = narrow<std::uint32_t>(out_.size() - start_ - 8, "a record");
    std::memcpy(out_.data() + start_ + 4, &length, sizeof length);
  }
  void pad() { out_.resize(start_ + aligned(out_.size() - start_)); }

  template <typename Number>
  void number(Number value) {
    raw(std::as_bytes(std::span(&value, 1)));
  }
  void raw(std::span<const std::byte> bytes) { out_.insert(out_.end(), bytes.begin(), bytes.end()); }
  // With its NUL, which counts into its size.
  void text(std::string_view text) {
    if (text.contains('\0')) refuse("a text with a NUL in it");
    raw(as_bytes(text));
    out_.push_back(std::byte{0});
  }
  template <typename Number>
  void text_size(std::string_view text) {
    number(narrow<Number>(text.size() + 1, "a text"));
  }
  void big_endian(std::uint32_t value) {
    for (unsigned shift : {24U, 16U, 8U, 0U}) out_.push_back(static_cast<std::byte>(value >> shift));
  }
  template <typename Number>
  Number narrow(std::size_t size, std::string_view what) {
    if (size > std::numeric_limits<Number>::max()) refuse(std::string(what) + " is too long");
    return static_cast<Number>(size);
  }
  void refuse(std::string_view why) {
    if (why_.empty()) why_ = why;
  }

  std::vector<std::byte> out_;
  std::size_t start_ = 0;
  std::uint32_t version_ = 0;
  std::string why_;
};

void StreamWriter::write_header() {
  if (version_ != kVersion1 && version_ != kVersion2) refuse("an unknown version");
  raw(as_bytes(kIdent));
  big_endian(version_);
  big_endian(0);
}

void StreamWriter::write_end_of(const Connection& connection) {
  if (const auto* socket = std::get_if<Socket>(&connection.end)) {
    number(socket->descriptor);
    number(std::uint32_t{0});
    return;
  }
  const auto& ring = std::get<Ring>(connection.end);
  number(ring.domid);
  number(ring.target.value_or(kNoTarget));
  number(ring.port);
}

void StreamWriter::write_connection(const Connection& connection) {
  begin(RecordType::kConnection);
  number(connection.id);
  number(std::holds_alternative<Socket>(connection.end) ? kSocketType : kRingType);
  number(connection.unique_id ? kHasUniqueId : std::uint16_t{0});
  write_end_of(connection);
  if (connection.partial > connection.output.size()) refuse("a partial response longer than the output");
  number(narrow<std::uint16_t>(connection.input.size(), "the input of a connection"));
  number(connection.partial);
  number(narrow<std::uint32_t>(connection.output.size(), "the output of a connection"));
  raw(connection.input);
  raw(connection.output);
  if (connection.unique_id) {
    pad();
    number(*connection.unique_id);
  }
  end();
  for (const Watch& watch : connection.watches) write_watch(connection.id, watch);
  for (std::uint32_t transaction : connection.transactions) {
    begin(RecordType::kTransaction);
    number(connection.id);
    number(transaction);
    end();
  }
}

void StreamWriter::write_watch(std::uint32_t connection, const Watch& watch) {
  if (watch.depth && (version_ < kVersion2 || watch.depth == kAnyDepth)) refuse("this depth of a watch");
  begin(watch.depth ? RecordType::kDeepWatch : RecordType::kWatch);
  number(connection);
  text_size<std::uint16_t>(watch.path);
  text_size<std::uint16_t>(watch.token);
  if (watch.depth) {
    number(*watch.depth);
    number(std::uint16_t{0});
  }
  text(watch.path);
  text(watch.token);
  end();
}

void StreamWriter::write_node(const Node& node) {
  begin(RecordType::kNode);
  number(node.connection);
  number(node.transaction);
  text_size<std::uint16_t>(node.path);
  number(narrow<std::uint16_t>(node.value.size(), "a value"));
  number(node.access);
  number(narrow<std::uint16_t>(node.permissions.size(), "a list of permissions"));
  for (const Permission& entry : node.permissions) {
    number(static_cast<std::uint8_t>(entry.access));
    number(entry.stale ? kStale : std::uint8_t{0});
    number(entry.domid);
  }
  text(node.path);
  raw(node.value);
  end();
}

void StreamWriter::write_quotas(std::span<const std::vector<QuotaValue>* const> lists) {
  for (const std::vector<QuotaValue>* list : lists) {
    for (const QuotaValue& quota : *list) number(quota.value);
  }
  for (const std::vector<QuotaValue>* list : lists) {
    for (const QuotaValue& quota : *list) text(quota.name);
  }
}

void StreamWriter::write_domain(const DomainData& domain) {
  begin(RecordType::kDomain);
  number(domain.domid);
  number(narrow<std::uint16_t>(domain.quotas.size(), "a list of quotas"));
  number(version_ < kVersion2 ? 0U : domain.features);
  const std::vector<QuotaValue>* const lists[] = {&domain.quotas};
  write_quotas(lists);
  end();
}

Result<std::vector<std::byte>> StreamWriter::write(const Stream& stream) {
  version_ = stream.version;
  write_header();
  if (stream.descriptors) {
    begin(RecordType::kGlobal);
    number(stream.descriptors->listener);
    number(stream.descriptors->event_channels);
    end();
  }
  if (stream.quotas) {
    begin(RecordType::kGlobalQuotas);
    number(narrow<std::uint16_t>(stream.quotas->of_domains.size(), "a list of quotas"));
    number(narrow<std::uint16_t>(stream.quotas->of_all.size(), "a list of quotas"));
    const std::vector<QuotaValue>* const lists[] = {&stream.quotas->of_domains, &stream.quotas->of_all};
    write_quotas(lists);
    end();
  }
  for (const Connection& connection : stream.connections) write_connection(connection);
  for (const DomainData& domain : stream.domains) write_domain(domain);
  for (const Node& node : stream.nodes) write_node(node);
  begin(RecordType::kEnd);
  end();
  if (!why_.empty()) return failure(ErrorKind::kInvalid, "a xenstore stream cannot hold " + why_);
  return std::move(out_);
}

}  // namespace

Result<std::vector<std::byte>> encode(const Stream& stream) {
  return StreamWriter().write(stream);
}

}  // namespace bulkhead::xenstore::migration
