// Under which names another xenstored's descriptors are in custody. Whoever brings them and the service that
// takes them over are different programs.
#pragma once

#include <cstdint>
#include <string>

namespace bulkhead::xenstore {

inline constexpr const char* kImportItem =
    "import";  // the migration stream; while it is there, nobody is served
inline constexpr const char* kEventsItem = "events";  // the event channels' descriptor
inline constexpr const char* kClientItems = "client-";

// Of the client whose socket has this number in the stream.
inline std::string import_client_item(std::int32_t descriptor) {
  return kClientItems + std::to_string(descriptor);
}

}  // namespace bulkhead::xenstore
