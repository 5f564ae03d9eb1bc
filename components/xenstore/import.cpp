#include "components/xenstore/import.h"

#include <fcntl.h>
#include <liburing.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "components/xenstore/crash_points.h"
#include "components/xenstore/protocol.h"
#include "components/xenstore/snapshot_store.h"

namespace bulkhead::xenstore {
namespace {

// Of the journal, where it begins with an imported state: anywhere but at 0, where one begins that had none.
constexpr std::uint64_t kImportedPosition = 4096;

// A guest's messages are counted from their headers, and of the first one the guest has the beginning. What
// it has is replaced by a header that makes a whole message of the rest, and counts as sent.
std::vector<std::byte> with_front(const migration::Attachment& attachment) {
  const Header front{.type = kRead, .request_id = 0, .transaction_id = 0, .length = attachment.partial};
  std::vector<std::byte> output(sizeof front + attachment.output.size());
  std::memcpy(output.data(), &front, sizeof front);
  std::ranges::copy(attachment.output, output.begin() + sizeof front);
  return output;
}

// An io_uring would return at once, again and again, from a socket that does not block.
Status let_block(BorrowedFd socket) {
  const int flags = ::fcntl(socket.get(), F_GETFL);
  if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags & ~O_NONBLOCK) != 0)
    return os_failure("cannot use a client's socket");
  return {};
}

}  // namespace

std::string CustodyImport::Taken::text() const {
  std::string line = "took over " + std::to_string(clients) + " clients and " + std::to_string(domains) +
                     " domains' rings from another xenstored";
  if (!notes.empty()) line += ", " + std::to_string(notes.size()) + " things could not be: " + notes.front();
  return line;
}

bool CustodyImport::due() const {
  const Journal& journal = custody_.journal();
  return store_.custody(kImportItem) != nullptr && journal.start() == 0 && journal.tail() == 0;
}

// ---- reading ----

Result<std::vector<std::byte>> CustodyImport::read_stream() const {
  const BorrowedFd file = store_.custody(kImportItem)->fd.borrow();
  auto size = file_size(file);
  if (!size) return forward(std::move(size));
  std::vector<std::byte> bytes(*size);
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t count =
        ::pread(file.get(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return os_failure("cannot read what was handed over");
    if (count == 0) return failure(ErrorKind::kInvalid, "what was handed over has become shorter");
    done += static_cast<std::size_t>(count);
  }
  return bytes;
}

Status CustodyImport::fits(const migration::Import& import) const {
  if (import.connections.size() > connections_.capacity()) {
    return failure(ErrorKind::kExhausted, std::to_string(import.connections.size()) +
                                              " connections were handed over, there is room for " +
                                              std::to_string(connections_.capacity()) +
                                              ": raise max_connections");
  }
  const bool any_ring = std::ranges::any_of(import.connections, [](const migration::Attachment& one) {
    const auto* ring = std::get_if<migration::Ring>(&one.end);
    return ring != nullptr && ring->port != 0;
  });
  if (!any_ring || rings_.served()) return {};
  // Without Xen there are no domains, whatever a stream says. With it they would be lost.
  if (hypervisor::open("xen")) {
    return failure(ErrorKind::kInvalid,
                   "domains' rings were handed over, but the setting `hypervisor` says that there are none");
  }
  return {};
}

Result<CustodyImport::Taken> CustodyImport::run(const Limits& limits) {
  auto bytes = read_stream();
  if (!bytes) return forward(std::move(bytes));
  auto stream = migration::decode(*bytes);
  if (!stream) return forward(std::move(stream));
  if (rings_.served()) {
    if (store_.custody(kEventsItem) == nullptr) {
      return failure(ErrorKind::kInvalid, "the event channels' descriptor was not handed over");
    }
    // Not to watch domains yet: whoever brought it could not do so any more, if everything went back to it.
    if (auto used = rings_.use_events(store_); !used) return forward(std::move(used));
  }
  const auto port_of = [this](const migration::Ring& ring) {
    return rings_.served() ? rings_.remote_of(ring.domid, ring.port) : 0;
  };
  auto import = migration::import_stream(*stream, limits, port_of);
  if (!import) return forward(std::move(import));
  if (auto room = fits(*import); !room) return forward(std::move(room));
  taken_ = {.notes = std::move(import->notes)};
  begin_anew();
  replica_.restart(std::move(import->engine), kImportedPosition);
  for (const migration::Attachment& attachment : import->connections) {
    if (auto attached = attach(attachment); !attached) return forward(std::move(attached));
    kImportHalf.pass();
  }
  connections_.count_unsent();
  kImportAttached.pass();
  if (auto published = publish(); !published) return forward(std::move(published));
  return std::move(taken_);
}

// What a predecessor made of it that died before it was true.
void CustodyImport::begin_anew() {
  kImportBegun.pass();
  SnapshotStore(custody_).republish(std::nullopt);
  for (std::uint32_t i = 0; i < connections_.slots_used(); ++i) {
    connections_.slot(i).state.store(SlotState::kFree);
  }
  custody_.control().next_serial.store(1);
}

// ---- connections ----

Status CustodyImport::attach(const migration::Attachment& attachment) {
  if (const auto* socket = std::get_if<migration::Socket>(&attachment.end)) {
    return attach_socket(attachment, socket->descriptor);
  }
  attach_ring(attachment, std::get<migration::Ring>(attachment.end));
  return {};
}

void CustodyImport::leave_out(const migration::Attachment& attachment, const std::string& why) {
  NoOutput nobody;
  const std::uint32_t domid = replica_.engine().domain_of(attachment.id).value_or(0);
  replica_.engine().disconnect(attachment.id, nobody);
  taken_.notes.push_back("connection " + std::to_string(attachment.id) + " of domain " +
                         std::to_string(domid) + " is left out: " + why);
}

std::string CustodyImport::too_much(const migration::Attachment& attachment, std::size_t output) const {
  const Geometry& geometry = custody_.geometry();
  if (output > geometry.out_bytes) return "it did not read " + std::to_string(output) + " bytes";
  if (attachment.input.size() <= geometry.in_bytes) return {};
  return "too much of what it sent waits: " + std::to_string(attachment.input.size()) + " bytes";
}

Slot& CustodyImport::open_slot(std::uint32_t index, std::uint32_t domid) {
  auto& next_serial = custody_.control().next_serial;
  connections_.prepare(index);
  Slot& slot = connections_.slot(index);
  slot.serial.store(next_serial.load());
  slot.domid = domid;
  next_serial.store(next_serial.load() + 1);
  slot.state.store(SlotState::kOpen);
  return slot;
}

Status CustodyImport::attach_socket(const migration::Attachment& attachment, std::int32_t descriptor) {
  const CustodyEntry* item = store_.custody(import_client_item(descriptor));
  if (item == nullptr) {
    leave_out(attachment, "its socket was not handed over");
    return {};
  }
  if (const std::string why = too_much(attachment, attachment.output.size()); !why.empty()) {
    leave_out(attachment, why);
    return {};
  }
  int file = item->fd.get();
  io_uring_files_update update{};
  update.offset = attachment.id;
  update.fds = reinterpret_cast<std::uint64_t>(&file);
  const int done = io_uring_register(static_cast<unsigned>(ring_), IORING_REGISTER_FILES_UPDATE, &update, 1);
  if (done != 1) return os_failure("cannot take a client's socket over", done < 0 ? -done : EIO);
  open_slot(attachment.id, 0);
  connections_.restore(attachment.id, attachment.input, attachment.output, 0);
  ++taken_.clients;
  return {};
}

// The page says how far each side has come; what the predecessor had taken and not executed, and what it had
// for the domain and not put there, is in the stream.
void CustodyImport::attach_ring(const migration::Attachment& attachment, const migration::Ring& ring) {
  if (!rings_.served() || ring.port == 0) return leave_out(attachment, "its ring is not served");
  const auto domain = replica_.engine().introduced_domain(ring.domid);
  const std::uint32_t introduction = domain ? domain->introduction : 0;
  const auto page = rings_.map(ring.domid, introduction);
  Slot& slot = open_slot(attachment.id, ring.domid);
  slot.ring_port = ring.port;
  slot.introduction = introduction;
  ++taken_.domains;
  const bool has_front = ring.domid != 0 && attachment.partial > 0;
  const auto output = has_front ? with_front(attachment) : attachment.output;
  const std::string why = page ? too_much(attachment, output.size()) : page.error().message();
  if (!why.empty()) {
    // It is told, and may begin anew; nothing can be said for it that would not be wrong.
    NoOutput nobody;
    slot.end_of_input.store(1);
    replica_.engine().reset(attachment.id, nobody);
    connections_.restore(attachment.id, {}, {}, 0);
    taken_.notes.push_back("domain " + std::to_string(ring.domid) + " is cut off: " + why);
    return;
  }
  const std::uint32_t front = has_front ? sizeof(Header) : 0;
  slot.request_base = page->consumed_so_far() - static_cast<std::uint32_t>(attachment.input.size());
  slot.response_base = page->produced_so_far() - front;
  connections_.restore(attachment.id, attachment.input, output, front);
}

// ---- making it true ----

// The journal begins behind nothing that was executed here: its start says that the state is imported, and is
// the store that makes it so. Its end follows; who finds it still before the start moves it
// (Server::follow_journal).
Status CustodyImport::publish() {
  auto writing = SnapshotWriting::begin(custody_, replica_.engine(), replica_.position());
  if (!writing) return failure(ErrorKind::kExhausted, "no snapshot segment is free");
  auto written = writing->step(std::numeric_limits<std::size_t>::max());
  if (!written) return forward(std::move(written));
  kImportPublished.pass();
  custody_.journal().release(replica_.position());
  kImportCommitted.pass();
  custody_.journal().commit(replica_.position());
  kImportMoved.pass();
  return {};
}

Status CustodyImport::finish() {
  if (store_.custody(kImportItem) == nullptr) return {};
  for (const std::string& name : store_.names()) {
    if (!name.starts_with(kClientItems)) continue;
    if (auto blocks = let_block(store_.custody(name)->fd.borrow()); !blocks) return blocks;
    if (auto gone = store_.withdraw(name); !gone) return gone;
    kImportHalfWithdrawn.pass();
  }
  return store_.withdraw(kImportItem);
}

}  // namespace bulkhead::xenstore
