// Sequences of requests, executed by the engine and by the reference model: every reply and every event must
// be equal. Beside them run an engine that is given only what has to be logged, and, from each snapshot on,
// the engine read from it; both must end as the same engine, byte by byte.
//
// Input: a byte for the limits, then a program (request_program.h).
#include <optional>
#include <set>
#include <vector>

#include "components/xenstore/engine_model.h"
#include "components/xenstore/engine_test_support.h"
#include "components/xenstore/snapshot.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/request_program.h"

namespace bulkhead::fuzz {
namespace {

using xenstore::Engine;
using xenstore::Limits;
using xenstore::SnapshotWriter;
using xenstore::test::Model;
using xenstore::test::Recorder;

constexpr std::size_t kMaxSteps = 400;  // the model is slow

using Said = std::vector<std::string>;

std::string lines(const Said& said) {
  std::string text;
  for (const std::string& line : said) text += "\n  " + xenstore::test::bar(line);
  return text;
}

void require_same(const Said& got, const Said& expected, const Step& step, const char* what) {
  if (got == expected) return;
  require(false, std::string(what) + ": " + step.describe() + "\nsaid:" + lines(got) +
                     "\nexpected:" + lines(expected));
}

class Comparison {
 public:
  explicit Comparison(const Limits& limits) : engine_(limits), model_(limits), logged_(limits) {}

  // The reply's type and payload, for the program.
  std::pair<std::uint32_t, std::string> run(const Step& step);
  void finish();

 private:
  void compare_with_model(const Step& step, const Said& said);
  void snapshot();
  void slice();
  void check_contents() const;

  Engine engine_;
  Model model_;
  Engine logged_;                   // executes only what changes something
  std::optional<Engine> restored_;  // read from the last snapshot
  std::optional<SnapshotWriter> writer_;
  std::vector<std::byte> sliced_, at_once_;
  std::set<xenstore::ConnectionId> connected_;
};

// The texts that the model does not know.
bool for_people(const Step& step) {
  if (step.type != xenstore::kControl) return false;
  const std::string& text = step.payload;
  const bool sets = text.starts_with(std::string("quota\0set\0", 10)) ||
                    text.starts_with(std::string("quota-soft\0set\0", 15));
  return text.starts_with(std::string("help\0", 5)) || (text.starts_with("quota") && !sets);
}

void Comparison::compare_with_model(const Step& step, const Said& said) {
  Recorder expected;
  switch (step.kind) {
    case Step::Kind::kConnect:
      model_.connect(step.connection, step.domid);
      connected_.insert(step.connection);
      break;
    case Step::Kind::kDisconnect:
      model_.disconnect(step.connection, expected);
      connected_.erase(step.connection);
      break;
    case Step::Kind::kShutDown:
      model_.domain_shut_down(step.domid, expected);
      break;
    case Step::Kind::kRequest:
      if (!connected_.contains(step.connection)) {
        expected.reply(xenstore::kError, xenstore::as_bytes(error_name(xenstore::ErrorCode::kInvalid)));
      } else {
        model_.execute(step.connection, step.type, step.payload, step.transaction, expected);
      }
      break;
    default:
      return;
  }
  if (step.kind == Step::Kind::kRequest && for_people(step) && said.size() == expected.said.size()) {
    expected.said.front() = said.front();
  }
  require_same(said, expected.said, step, "the model disagrees");
}

std::pair<std::uint32_t, std::string> Comparison::run(const Step& step) {
  if (step.kind == Step::Kind::kSnapshot) snapshot();
  slice();
  const std::uint64_t digest = engine_.digest();
  Recorder out;
  const bool mutated = carry_out(engine_, step, out);
  compare_with_model(step, out.said);
  if (mutated) {
    Recorder again;
    carry_out(logged_, step, again);
    require_same(again.said, out.said, step, "the log's engine disagrees");
  } else {
    require(engine_.digest() == digest, "what is not logged changes nothing");
  }
  if (restored_) {
    Recorder again;
    carry_out(*restored_, step, again);
    require_same(again.said, out.said, step, "the restored engine disagrees");
  }
  for (const std::string& line : out.said) {
    if (!line.starts_with("reply:")) continue;
    const std::size_t colon = line.find(':', 6);
    require(line.size() - colon - 1 <= xenstore::kMaxPayload, "a reply fits a message");
    return {static_cast<std::uint32_t>(xenstore::leading_number(line.substr(6))), line.substr(colon + 1)};
  }
  return {};
}

void Comparison::snapshot() {
  const std::vector<std::byte> bytes = write_snapshot(engine_);
  if (restored_) require(write_snapshot(*restored_) == bytes, "the restored engine stayed the same");
  auto read = xenstore::read_snapshot(bytes);
  require(read.has_value(), read ? "" : read.error().message());
  const Status sound = read->check();
  require(sound.has_value(), sound ? "" : sound.error().message());
  require(write_snapshot(*read) == bytes, "a snapshot of what was read is the same snapshot");
  require(write_snapshot(logged_) == bytes, "the log's engine is the same");
  restored_ = std::move(*read);
  writer_.emplace(engine_);
  sliced_.clear();
  at_once_ = bytes;
}

// A little of a snapshot that was begun earlier: what happened since must not be in it.
void Comparison::slice() {
  if (!writer_ || writer_->step(64, sliced_)) return;
  require(sliced_ == at_once_, "a snapshot in slices is the snapshot of its beginning");
  writer_.reset();
}

void Comparison::check_contents() const {
  const Status sound = engine_.check();
  require(sound.has_value(), sound ? "" : sound.error().message());
  require(engine_.node_count() == model_.tree().size(), "the number of nodes");
  for (const auto& row : engine_.quotas()) {
    require(model_.knows(row.domid), "no domain is known that should not be");
    const std::uint32_t limit = row.domid == 0 ? 0 : model_.limit(row.domid, std::string(row.name));
    require(row.limit == limit, "a limit of a domain");
    if (row.name == "nodes") {
      require(row.used == static_cast<std::uint64_t>(model_.nodes_of(row.domid)), "nodes of a domain");
    } else if (row.name == "memory") {
      require(row.used == static_cast<std::uint64_t>(model_.memory_of(row.domid)), "memory of a domain");
    } else if (row.name == "transactions") {
      require(row.used == model_.transactions_of(row.domid), "transactions of a domain");
    } else if (row.name == "watches") {
      require(row.used == model_.watches_of(row.domid), "watches of a domain");
    }
  }
}

void Comparison::finish() {
  check_contents();
  snapshot();
}

}  // namespace
}  // namespace bulkhead::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::fuzz;  // NOLINT(google-build-using-namespace)
  Input input(data, size);
  Comparison comparison(input.pick(2) == 0 ? bulkhead::xenstore::Limits{} : tight_limits());
  RequestProgram program(input);
  for (std::size_t steps = 0; steps < kMaxSteps; ++steps) {
    const auto step = program.next();
    if (!step) break;
    const auto [type, payload] = comparison.run(*step);
    program.learn(*step, type, payload);
  }
  comparison.finish();
  return 0;
}
