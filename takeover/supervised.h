// The supervised service, as its supervisor shows it: asked until the answer is known, for whoever hands over
// must not guess who serves.
#pragma once

#include <functional>
#include <string>

#include "bulkhead/v1/bulkhead.pb.h"
#include "cli/client.h"
#include "runtime/result.h"

namespace bulkhead::takeover {

class Supervised {
 public:
  // `tell` gets a line now and then while the supervisor does not answer.
  Supervised(const cli::Client& client, std::string component, std::function<void(const std::string&)> tell)
      : client_(client), component_(std::move(component)), tell_(std::move(tell)) {}

  // Would it take anything over? kRefused, kNotFound: why not; kDisconnected: nobody answers.
  Status ready_to_take_over() const;

  // Hands over. An error: for certain nothing was taken.
  Status hand_over(const v1::ImportCustodyRequest& request) const;

  // Waits until it serves, or has failed to.
  Status wait_until_serving() const;

  // Stops it and gives up what it was handed, if no client can have been told anything by it. False: it has
  // gone on where its predecessor was, and there is no way back.
  bool take_back() const;

 private:
  v1::Component state() const;  // asks for as long as it takes
  template <typename Request, typename Response>
  Response surely(const Request& request, bool act) const;

  const cli::Client& client_;
  std::string component_;
  std::function<void(const std::string&)> tell_;
};

}  // namespace bulkhead::takeover
