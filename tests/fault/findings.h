// What the core says of a component's findings, collected while a test runs.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "bulkhead/v1/bulkhead.grpc.pb.h"

namespace bulkhead::campaign {

class Findings {
 public:
  // `api` must outlive it. Watches from some time soon after this; seen() says when.
  explicit Findings(v1::Supervisor::Stub& api);
  ~Findings();
  Findings(const Findings&) = delete;
  Findings& operator=(const Findings&) = delete;

  // Has any event at all arrived?
  bool seen() const;
  bool any_contains(const std::string& text) const;
  std::string all() const;

 private:
  void watch();

  v1::Supervisor::Stub& api_;
  mutable std::mutex mutex_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::vector<std::string> findings_;
  bool seen_ = false;
  bool enough_ = false;
  std::thread thread_;
};

}  // namespace bulkhead::campaign
