// A client that makes random requests of a few nodes, several in flight, and notes what it was told and when.
#pragma once

#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "tests/support/history.h"
#include "tests/support/xs_client.h"

namespace bulkhead::xs {

class RecordingClient final : public Listener {
 public:
  struct Settings {
    size_t index = 0;  // Operation::client
    std::string base;  // works at and below the nodes a and b of it
    size_t depth = 2;
    // The server shows an open transaction one instant: that of its start. Otherwise nothing is noted of
    // transactions that changed nothing.
    bool snapshot_isolation = true;
    // Only reads and writes of nodes that are there all the time: what partition() takes apart.
    bool lasting_nodes = false;
    uint64_t seed = 1;
  };

  RecordingClient(std::unique_ptr<XsClient> client, Settings settings)
      : client_(std::move(client)), settings_(std::move(settings)), random_(settings_.seed) {}

  // Begins a record of `requests` requests; a transaction counts as one.
  void begin(size_t requests);
  // Sends as much as depth and order allow.
  void pump();
  bool done() const { return left_ == 0 && client_->in_flight() == 0; }
  // What was recorded, in the order of sending.
  std::vector<Operation> take();

  void on_reply(const Reply& reply) override;
  void on_event(XsClient& client, std::string_view path, std::string_view token) override;

  XsClient& client() { return *client_; }
  size_t conflicts() const { return conflicts_; }
  size_t commits() const { return commits_; }

 private:
  // What a reply is to; the cookie is its position.
  struct Sent {
    enum class Role : unsigned char { kSingle, kStart, kStep, kEnd } role;
    size_t operation;
    size_t step;
  };
  struct Transaction {
    size_t snapshot;  // positions in operations_
    size_t commit;
    bool aborts;
    bool ended;
    std::vector<Step> steps;
  };

  void single();
  void start();
  void continue_transaction(uint32_t id);
  void ended(const Reply& reply);
  void send(xsd_sockmsg_type type, uint32_t transaction, const std::string& payload, Sent sent);
  void send(const Request& request, uint32_t transaction, Sent sent);
  Request random_request(bool in_transaction);
  size_t add(Operation::Kind kind);

  std::unique_ptr<XsClient> client_;
  Settings settings_;
  std::mt19937_64 random_;
  size_t left_ = 0;
  uint64_t value_ = 0;
  std::vector<Operation> operations_;
  std::vector<Sent> sent_;
  std::optional<Transaction> transaction_;
  size_t conflicts_ = 0;
  size_t commits_ = 0;
};

}  // namespace bulkhead::xs
