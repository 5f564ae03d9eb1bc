// A connection to bulkhead-local-hypervisor: one request, one reply.
#pragma once

#include <string>
#include <vector>

#include "hypervisor/local/local.pb.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead::hypervisor::local {

struct Answer {
  Reply reply;
  std::vector<UniqueFd> fds;
};

class Connection {
 public:
  // kNotFound: nobody listens there.
  static Result<Connection> open(const std::string& path);

  // Waits for the reply, which has `fds_expected` descriptors, or is a failure as the hypervisor worded it.
  // kDisconnected: it is gone; kTimeout: it has not answered within 60 s, and the connection is closed.
  Result<Answer> call(const Request& request, std::size_t fds_expected,
                      const std::vector<BorrowedFd>& fds = {});

 private:
  explicit Connection(UniqueFd socket) : socket_(std::move(socket)) {}
  Result<Answer> exchange(const Request& request, const std::vector<BorrowedFd>& fds);

  UniqueFd socket_;
};

}  // namespace bulkhead::hypervisor::local
