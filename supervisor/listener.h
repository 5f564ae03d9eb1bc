// Listening Unix sockets that the core makes and keeps in custody, so that clients queue while nobody serves.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead::supervisor {

// Binds and listens on `path` (absolute), replacing what a dead process left there. Its directory is made if
// missing. Non-blocking, close-on-exec. kRefused if another process listens there.
Result<UniqueFd> listen_unix(const std::string& path, std::uint32_t mode, std::optional<gid_t> group);

// A listening socket that another program made: kInvalid unless it listens at `path`. Its backlog becomes
// that of ours.
Status take_over_listener(BorrowedFd socket, const std::string& path);

// Does `socket` listen at `path`, and is it still what clients find there?
bool listens_at(BorrowedFd socket, const std::string& path);

}  // namespace bulkhead::supervisor
