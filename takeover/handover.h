// What the stock daemon has left: its state in a file, its descriptors in this process.
#pragma once

#include <string>

#include "bulkhead/v1/bulkhead.pb.h"
#include "components/xenstore/migration_stream.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead::takeover {

struct Handover {
  xenstore::migration::Stream stream;
  UniqueFd segment;  // the file's bytes, sealed
};

// kInvalid: it is not a stream that can be taken over.
Result<Handover> read_handover(const std::string& file);

// The items of this process that the supervised service goes on with; the stream is the last one.
v1::ImportCustodyRequest request_for(const Handover& handover, const std::string& component);

}  // namespace bulkhead::takeover
