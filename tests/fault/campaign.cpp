#include "tests/fault/campaign.h"

#include <toml++/toml.h>
#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <set>

namespace bulkhead::campaign {
namespace {

// One table of a file. Remembers the first thing that is wrong, and which keys were asked for.
class Table {
 public:
  Table(const toml::table& table, std::string file, std::string& wrong)
      : table_(table), file_(std::move(file)), wrong_(wrong) {}
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;
  // What nobody asked for is wrong.
  ~Table() {
    for (const auto& [key, node] : table_) {
      if (!known_.contains(std::string(key.str()))) complain(node, "unknown key " + std::string(key.str()));
    }
  }

  const toml::node* find(const std::string& key) {
    known_.insert(key);
    return table_.get(key);
  }
  void complain(const toml::node& node, const std::string& what) {
    if (wrong_.empty()) wrong_ = file_ + ":" + std::to_string(node.source().begin.line) + ": " + what;
  }
  template <typename T>
  void get(const std::string& key, T& to) {
    const toml::node* node = find(key);
    if (node != nullptr) take(*node, key, to);
  }
  template <typename T>
  void get(const std::string& key, std::optional<T>& to) {
    if (find(key) != nullptr) get(key, to.emplace());
  }
  // One of the names; what it stands for.
  template <typename T, std::size_t N>
  void choose(const std::string& key, T& to, const std::array<std::pair<const char*, T>, N>& names) {
    std::string text;
    get(key, text);
    const auto found = std::ranges::find_if(names, [&](const auto& name) { return text == name.first; });
    if (found != names.end()) to = found->second;
    if (found == names.end() && find(key) != nullptr) complain(*find(key), key + " cannot be " + text);
  }
  // Calls with each table of an array of tables, or with the table `key`.
  template <typename F>
  void each(const std::string& key, const F& call) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    if (const toml::table* one = node->as_table()) return call(Child(*one, file_, wrong_));
    const toml::array* all = node->as_array();
    if (all == nullptr) return complain(*node, key + " must be a table");
    for (const toml::node& entry : *all) {
      if (!entry.is_table()) return complain(entry, key + " must hold tables");
      call(Child(*entry.as_table(), file_, wrong_));
    }
  }

  // "900* WRITE x": 900 times.
  void requests(const std::string& key, std::vector<std::string>& to) {
    std::vector<std::string> texts;
    get(key, texts);
    for (std::string& text : texts) {
      std::size_t times = 1;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), times);
      if (error == std::errc() && times <= kMostTimes && std::string_view(end).starts_with("* ")) {
        text.erase(0, static_cast<std::size_t>(end - text.data()) + 2);
      } else {
        times = 1;
      }
      if (Status good = xs::check_request(text); !good) complain(*find(key), good.error().message());
      to.insert(to.end(), times, text);
    }
  }

 private:
  using Child = Table;
  static constexpr std::size_t kMostTimes = 10'000;

  void take(const toml::node& node, const std::string& key, std::string& to) {
    if (!node.is_string()) return complain(node, key + " must be a text");
    to = *node.value<std::string>();
  }
  void take(const toml::node& node, const std::string& key, bool& to) {
    if (!node.is_boolean()) return complain(node, key + " must be true or false");
    to = *node.value<bool>();
  }
  void take(const toml::node& node, const std::string& key, std::uint64_t& to) {
    if (!node.is_integer() || *node.value<std::int64_t>() < 0) {
      return complain(node, key + " must be a whole number, not negative");
    }
    to = static_cast<std::uint64_t>(*node.value<std::int64_t>());
  }
  void take(const toml::node& node, const std::string& key, std::uint32_t& to) {
    std::uint64_t number = 0;
    take(node, key, number);
    to = static_cast<std::uint32_t>(std::min<std::uint64_t>(number, UINT32_MAX));
  }
  void take(const toml::node& node, const std::string& key, std::vector<std::string>& to) {
    const toml::array* list = node.as_array();
    if (list == nullptr) return complain(node, key + " must be a list of texts");
    for (const toml::node& entry : *list) take(entry, key, to.emplace_back());
  }
  template <typename T>
  void take(const toml::node& node, const std::string& key, std::map<std::string, T>& to) {
    const toml::table* table = node.as_table();
    if (table == nullptr) return complain(node, key + " must be a table");
    to.clear();
    for (const auto& [name, entry] : *table) take(entry, key, to[std::string(name.str())]);
  }

  const toml::table& table_;
  std::string file_;
  std::string& wrong_;
  std::set<std::string> known_;
};

using xs::Behaviour;
using xs::Reading;
constexpr std::array kBehaviours{
    std::pair{"requests", Behaviour::kRequests},   std::pair{"half-messages", Behaviour::kHalfMessages},
    std::pair{"oversized", Behaviour::kOversized}, std::pair{"garbage", Behaviour::kGarbage},
    std::pair{"payloads", Behaviour::kPayloads},   std::pair{"resets", Behaviour::kResets}};
constexpr std::array kReadings{std::pair{"always", Reading::kAlways}, std::pair{"never", Reading::kNever},
                               std::pair{"byte", Reading::kByte}};
constexpr std::array kFates{std::pair{"served", Fate::kServed}, std::pair{"throttled", Fate::kThrottled},
                            std::pair{"cut-off", Fate::kCutOff}, std::pair{"unharmed", Fate::kUnharmed}};
constexpr std::array kTriggers{
    std::pair{"at-once", Trigger::kAtOnce}, std::pair{"complete", Trigger::kComplete},
    std::pair{"taken-over", Trigger::kTakenOver}, std::pair{"standby-gone", Trigger::kStandbyGone},
    std::pair{"replies", Trigger::kReplies}};

void read_attack(Table&& table, std::vector<Attack>& attacks) {
  Attack& attack = attacks.emplace_back();
  xs::HostileScript& script = attack.script;
  table.choose("behaviour", script.behaviour, kBehaviours);
  table.choose("reads", script.reads, kReadings);
  table.choose("fate", attack.fate, kFates);
  table.get("byte_by_byte", script.byte_by_byte);
  table.get("domain", script.domain);
  table.get("connections", script.connections);
  table.get("messages", script.messages);
  table.get("in_flight", script.in_flight);
  table.get("length", script.length);
  table.requests("begin", script.begin);
  table.get("begin_times", script.begin_times);
  table.requests("repeat", script.repeat);
  table.get("must_not_hear", script.must_not_hear);
  table.get("errors", attack.errors);
  table.get("events", attack.events);
  table.get("taken_at_most", attack.taken_at_most);
  const bool asks = script.behaviour == Behaviour::kRequests;
  const toml::node* repeat = table.find("repeat");
  if (repeat != nullptr && !asks) table.complain(*repeat, "only requests are repeated");
  if (asks && script.repeat.empty()) script.messages = 0;
}

void read_fault(Table&& table, std::vector<Fault>& faults) {
  Fault& fault = faults.emplace_back();
  table.choose("when", fault.trigger, kTriggers);
  table.get("replies", fault.replies);
  table.get("kind", fault.kind);
  table.get("argument", fault.argument);
  table.get("target", fault.target);
}

void read_load(Table&& table, Load& load) {
  table.get("clients", load.clients);
  table.get("replies", load.replies);
  table.get("conflict_node", load.conflict_node);
  table.get("commits", load.commits);
}

void read_expected(Table&& table, Expected& expected) {
  table.get("survives", expected.survives);
  table.get("takeovers", expected.takeovers);
  table.get("takeovers_at_most", expected.takeovers_at_most);
  table.get("refused", expected.refused);
  table.get("blamed", expected.blamed);
  table.get("found", expected.found);
  std::uint64_t mib = expected.memory_growth >> 20;
  table.get("memory_growth_mib", mib);
  expected.memory_growth = mib << 20;
}

// A later attacker would come as the guest of one that keeps coming back.
std::string impossible(const Campaign& campaign) {
  for (std::size_t i = 0; i + 1 < campaign.attacks.size(); ++i) {
    if (campaign.attacks[i].script.behaviour == Behaviour::kResets) return "resets must be the last attack";
  }
  if (campaign.what.empty() || campaign.classes.empty()) return "what and classes are needed";
  return {};
}

}  // namespace

bool Campaign::needs_descriptor_store() const {
  return std::ranges::any_of(faults, [](const Fault& fault) { return fault.kind == "kill-core"; });
}

Result<Campaign> read_campaign(const std::string& file) {
  toml::table table;
  try {
    table = toml::parse_file(file);
  } catch (const toml::parse_error& error) {
    return failure(ErrorKind::kInvalid, file + ":" + std::to_string(error.source().begin.line) + ": " +
                                            std::string(error.description()));
  }
  Campaign campaign;
  campaign.name = std::filesystem::path(file).stem();
  std::string wrong;
  {
    Table top(table, file, wrong);
    top.get("what", campaign.what);
    top.get("classes", campaign.classes);
    top.get("settings", campaign.settings);
    top.get("monitor", campaign.monitor);
    top.requests("setup", campaign.setup);
    top.each("load", [&](Table&& t) { read_load(std::move(t), campaign.load); });
    top.each("attack", [&](Table&& t) { read_attack(std::move(t), campaign.attacks); });
    top.each("fault", [&](Table&& t) { read_fault(std::move(t), campaign.faults); });
    top.each("expect", [&](Table&& t) { read_expected(std::move(t), campaign.expected); });
  }
  if (wrong.empty() && !impossible(campaign).empty()) wrong = file + ":1: " + impossible(campaign);
  if (!wrong.empty()) return failure(ErrorKind::kInvalid, wrong);
  return campaign;
}

std::vector<std::string> campaign_files(const std::string& directory) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() == ".toml") files.push_back(entry.path());
  }
  std::ranges::sort(files);
  return files;
}

}  // namespace bulkhead::campaign
