// Bytes decoded as a sequence of requests of several connections, over few names, domains and transactions,
// so that they keep meeting each other.
#pragma once

#include <array>
#include <deque>
#include <optional>
#include <string>
#include <string_view>

#include "components/xenstore/engine.h"
#include "tests/fuzz/fuzz.h"

namespace bulkhead::fuzz {

struct Step {
  enum class Kind : std::uint8_t {
    kRequest,
    kConnect,     // does nothing for a connected id
    kDisconnect,  // likewise for an unknown one
    kShutDown,    // of `domid`
    kSnapshot,    // for the target to interpret, like the next
    kSlice,
  };
  Kind kind = Kind::kRequest;
  xenstore::ConnectionId connection = 0;
  std::uint32_t domid = 0;
  std::uint32_t type = 0;
  std::uint32_t transaction = 0;
  std::string payload =
      {};  // NOLINT(readability-redundant-member-init): lets designated initialisers omit it

  xenstore::Request request() const;
  std::string describe() const;
};

class RequestProgram {
 public:
  static constexpr std::array<std::uint32_t, 8> kDomainOf{0, 0, 1, 2, 3, 3, 4, 5};

  // `input` outlives this.
  explicit RequestProgram(Input& input) : input_(input) {}

  // Connects everybody first; then as long as there is input.
  std::optional<Step> next();
  // Tells the program what a step was answered, so that later steps can name the transactions given out.
  void learn(const Step& step, std::uint32_t reply_type, std::string_view reply);

 private:
  Step decode();
  Step request(std::uint32_t type);
  Step raw_request();
  void many_children();
  std::uint32_t transaction(xenstore::ConnectionId connection, std::size_t choice);
  void damage(std::string& payload);
  std::string payload(std::uint32_t type);
  std::string path();
  std::string odd_path();
  std::string watch_path();
  std::string token();
  std::string value();
  std::string domid();
  std::string permissions();
  std::string control();
  std::string quota_name();
  std::string quota_value();

  Input& input_;
  xenstore::ConnectionId connected_ = 0;
  std::deque<Step> pending_;
  std::array<std::array<std::uint32_t, 2>, kDomainOf.size()> transactions_{};  // newest first
};

// Hears the reply of one execution and forgets the events.
class ReplyOnly : public xenstore::Output {
 public:
  void reply(std::uint32_t type, std::span<const std::byte> payload) override;
  void event(xenstore::ConnectionId /*to*/, std::span<const std::byte> /*payload*/) override {}

  std::uint32_t type = 0;
  std::string payload;
};

// Carries a step out; true if it changed the engine in a way that has to be logged.
bool carry_out(xenstore::Engine& engine, const Step& step, xenstore::Output& out);

// The engine a program makes, of at most `max_steps`.
xenstore::Engine run_program(Input& input, std::size_t max_steps);

// Everything at its lower limit, where refusals happen.
xenstore::Limits tight_limits();

}  // namespace bulkhead::fuzz
