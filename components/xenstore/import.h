// Taking over what another xenstored has handed over: its migration stream and its descriptors are in
// custody, put there by whoever brought them, and become this service's state with one store. Until then a
// successor does it all again; docs/crash-windows.md.
#pragma once

#include <cstdint>
#include <string>

#include "components/xenstore/connections.h"
#include "components/xenstore/import_items.h"
#include "components/xenstore/migration.h"
#include "components/xenstore/replica.h"
#include "components/xenstore/rings.h"
#include "runtime/instance.h"

namespace bulkhead::xenstore {

class CustodyImport {
 public:
  // All outlive this. `ring`: the io_uring in whose file table the clients' sockets belong, which is made.
  CustodyImport(CustodyStore& store, Custody& custody, Connections& connections, Replica& replica,
                Rings& rings, int ring)
      : store_(store),
        custody_(custody),
        connections_(connections),
        replica_(replica),
        rings_(rings),
        ring_(ring) {}

  // Something was handed over that is not the state yet. For an owner that has followed the journal.
  bool due() const;

  struct Taken {
    std::uint32_t clients = 0;
    std::uint32_t domains = 0;
    migration::Notes notes;  // what could not be taken
    std::string text() const;
  };
  // Connections, engine, snapshot, then the store by which it is ours. kInvalid: the stream cannot be read,
  // or this service is not set up for what it holds; kExhausted: it has no room. Then nothing has happened
  // that whoever handed over would notice.
  Result<Taken> run(const Limits& limits);

  // Withdraws what was handed over, if anything is left, the stream last. No client may be served before this
  // succeeds: as long as the stream is in custody, whoever brought it can still take everything back.
  Status finish();

 private:
  Result<std::vector<std::byte>> read_stream() const;
  Status fits(const migration::Import& import) const;
  void begin_anew();
  Status attach(const migration::Attachment& attachment);
  Status attach_socket(const migration::Attachment& attachment, std::int32_t descriptor);
  void attach_ring(const migration::Attachment& attachment, const migration::Ring& ring);
  // Why its buffers cannot hold what is under way; empty: they can.
  std::string too_much(const migration::Attachment& attachment, std::size_t output) const;
  void leave_out(const migration::Attachment& attachment, const std::string& why);
  Slot& open_slot(std::uint32_t index, std::uint32_t domid);
  Status publish();

  CustodyStore& store_;
  Custody& custody_;
  Connections& connections_;
  Replica& replica_;
  Rings& rings_;
  int ring_;
  Taken taken_;
};

}  // namespace bulkhead::xenstore
