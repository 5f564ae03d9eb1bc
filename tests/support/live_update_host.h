// Serves a xenstore that it took over in a live update, over the sockets it inherited, and hands it over
// again when asked in the same way. For tests: it keeps no journal and serves no rings.
#pragma once

#include <deque>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "components/xenstore/migration.h"

namespace bulkhead::test {

// One message to a client. `begun`: the client has the part that is not here.
struct Outgoing {
  std::vector<std::byte> bytes;
  bool begun = false;
};

struct HostedClient {
  xenstore::ConnectionId id = 0;
  std::variant<xenstore::migration::Ring, xenstore::migration::Socket> end;
  std::vector<std::byte> input;
  std::deque<Outgoing> output;
  std::optional<std::uint64_t> unique_id;

  explicit HostedClient(const xenstore::migration::Attachment& attachment);
  // -1: a ring, which is only kept.
  int descriptor() const;
  xenstore::migration::Attachment attachment() const;
  void send(const xenstore::Header& header, std::span<const std::byte> payload);
};

class LiveUpdateHost : public xenstore::Output {
 public:
  // `arguments`: our own, the first of which is the program's name; the next program gets them too. `folder`:
  // where states are left.
  LiveUpdateHost(std::vector<std::string> arguments, std::filesystem::path folder)
      : arguments_(std::move(arguments)), folder_(std::move(folder)) {}

  // Reads the state. What it was and what had to be noted is left in the folder: state_taken, notes_taken.
  Status take_over();
  // Until a live update starts the next program, or fails.
  Status serve();

  void reply(std::uint32_t type, std::span<const std::byte> payload) override;
  void event(xenstore::ConnectionId to, std::span<const std::byte> payload) override;

 private:
  Status turn();
  void accept_clients();
  bool receive(HostedClient& client);
  static bool flush(HostedClient& client);
  bool execute_next(HostedClient& client);
  bool is_live_update(const HostedClient& client, const xenstore::Request& request);
  bool is_update_due() const;
  Status hand_over();
  void forget(xenstore::ConnectionId id);

  std::vector<std::string> arguments_;
  std::filesystem::path folder_;
  xenstore::Engine engine_;
  xenstore::migration::Descriptors descriptors_;
  std::deque<HostedClient> clients_;
  const xenstore::Header* header_ = nullptr;  // of the request under execution
  HostedClient* client_ = nullptr;            // who sent it
  std::string next_program_;
  // Who asked for a live update, and the request's header.
  std::optional<std::pair<xenstore::ConnectionId, xenstore::Header>> asked_by_;
};

}  // namespace bulkhead::test
