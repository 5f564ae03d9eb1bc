#include "takeover/handover.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include "components/xenstore/import_items.h"
#include "components/xenstore/protocol.h"

namespace bulkhead::takeover {
namespace {

namespace migration = xenstore::migration;

Result<std::string> content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(file), {}};
  if (!file) return os_failure("cannot read " + path);
  return bytes;
}

Result<UniqueFd> sealed_copy(std::string_view bytes) {
  UniqueFd segment(::memfd_create("xenstore-import", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!segment.valid()) return os_failure("cannot make a segment");
  while (!bytes.empty()) {
    const ssize_t count = ::write(segment.get(), bytes.data(), bytes.size());
    if (count < 0 && errno != EINTR) return os_failure("cannot copy the state");
    bytes.remove_prefix(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
  }
  constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
  if (::fcntl(segment.get(), F_ADD_SEALS, kSeals) != 0) return os_failure("cannot seal the state");
  return segment;
}

void add(v1::ImportCustodyRequest& request, const std::string& name, const char* kind, int number) {
  if (number < 0) return;
  auto& item = *request.add_items();
  item.set_name(name);
  item.set_kind(kind);
  item.set_number(number);
}

}  // namespace

Result<Handover> read_handover(const std::string& file) {
  auto bytes = content_of(file);
  if (!bytes) return forward(std::move(bytes));
  auto stream = migration::decode(xenstore::as_bytes(*bytes));
  if (!stream) return forward(std::move(stream), file);
  if (!stream->descriptors || stream->descriptors->listener < 0)
    return failure(ErrorKind::kInvalid, file + ": it names no listening socket");
  auto segment = sealed_copy(*bytes);
  if (!segment) return forward(std::move(segment));
  return Handover{std::move(*stream), std::move(*segment)};
}

v1::ImportCustodyRequest request_for(const Handover& handover, const std::string& component) {
  v1::ImportCustodyRequest request;
  request.set_component(component);
  request.set_pid(::getpid());
  add(request, "listener", "socket", handover.stream.descriptors->listener);
  add(request, xenstore::kEventsItem, "other", handover.stream.descriptors->event_channels);
  for (const migration::Connection& connection : handover.stream.connections) {
    const auto* socket = std::get_if<migration::Socket>(&connection.end);
    if (socket == nullptr) continue;
    add(request, xenstore::import_client_item(socket->descriptor), "socket", socket->descriptor);
  }
  add(request, xenstore::kImportItem, "segment", handover.segment.get());
  return request;
}

}  // namespace bulkhead::takeover
