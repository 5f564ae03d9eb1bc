// A client that comes, asks one thing, and goes, again and again: connections are opened and closed all the
// time.
#pragma once

#include <memory>
#include <string>

#include "tests/support/xs_client.h"

namespace bulkhead::xs {

// Driven one step at a time; never blocks. The AnomalyLog must outlive it.
class Visitor : public Listener {
 public:
  // Any success will do as the answer, unless `expected` says which.
  Visitor(std::string socket_path, AnomalyLog& log, xsd_sockmsg_type type, std::string payload,
          std::string expected = {})
      : socket_path_(std::move(socket_path)),
        log_(log),
        type_(type),
        payload_(std::move(payload)),
        expected_(std::move(expected)) {}

  void step();
  int visits() const { return visits_; }

  void on_reply(const Reply& reply) override;
  void on_event(XsClient& client, std::string_view path, std::string_view token) override;

 private:
  std::string socket_path_;
  AnomalyLog& log_;
  xsd_sockmsg_type type_;
  std::string payload_;
  std::string expected_;
  std::unique_ptr<XsClient> client_;
  bool answered_ = false;
  int visits_ = 0;
};

}  // namespace bulkhead::xs
