#include "tests/fault/campaign_run.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "tests/fault/process_figures.h"

namespace bulkhead::campaign {
namespace {

constexpr std::uint64_t kWarmUp = 500;        // replies before anything happens
constexpr std::uint64_t kQuietReplies = 500;  // the bystanders get so many while a throttled one gets nothing
constexpr std::uint32_t kLeaseMs = 300'000;
constexpr std::chrono::seconds kDeadline(150);

std::string config(const Campaign& campaign) {
  // A journal that is soon used once around, so that memory does not grow with the length of the run.
  std::string settings = campaign.settings.contains("journal_bytes") ? "" : "journal_bytes = \"4194304\"";
  for (const auto& [name, value] : campaign.settings) {
    settings += (settings.empty() ? "" : ", ") + name + " = \"" + value + "\"";
  }
  // Without the probe: it would act for the guest, too.
  return test::xenstore_table("settings = { " + settings + " }\nmonitor = { probe = \"\"" +
                              (campaign.monitor.empty() ? "" : ", ") + campaign.monitor + " }\n");
}

std::string home(std::uint32_t domain) {
  return "/local/domain/" + std::to_string(domain);
}

// Of thousands of connections a nightly run may want more.
std::uint32_t crowd(std::uint32_t connections) {
  constexpr std::uint32_t kCrowd = 1000;
  const char* wanted = std::getenv("BULKHEAD_CAMPAIGN_CONNECTIONS");
  if (connections < kCrowd || wanted == nullptr) return connections;
  return static_cast<std::uint32_t>(std::strtoul(wanted, nullptr, 10));
}

bool reached(std::uint64_t now, std::uint64_t before, std::uint64_t wanted) {
  return now >= before + wanted;
}

}  // namespace

CampaignRun::CampaignRun(const Campaign& campaign)
    : campaign_(campaign),
      host_(campaign.needs_descriptor_store() ? std::make_unique<test::CoreHost>(config(campaign), "")
                                              : std::make_unique<test::CoreHost>(config(campaign))) {}

void CampaignRun::run() {
  if (!prepare()) return;
  const Look before = look();
  struck_ = before.component;
  // These first: they are in force when an attacker is known to act for its guest.
  while (next_fault_ < campaign_.faults.size() && campaign_.faults[next_fault_].trigger == Trigger::kAtOnce) {
    strike(campaign_.faults[next_fault_++]);
  }
  if (!open_attackers()) return;
  go_on();
  for (const Attacker& attacker : attackers_) judge(attacker);
  if (::testing::Test::HasFailure()) ADD_FAILURE() << state();
  clear("as-guest");
  judge_instances(before);
  judge_incidents();
  judge_tree();
  bystanders_->end();
  EXPECT_EQ(bystanders_->log().total(), 0U) << ::testing::PrintToString(bystanders_->log().described());
  EXPECT_EQ(toolstack_log_.total(), 0U) << ::testing::PrintToString(toolstack_log_.described());
}

// ---- before ----

bool CampaignRun::prepare() {
  host_->wait_complete("xenstore");
  findings_ = std::make_unique<Findings>(host_->api());
  const std::string socket = host_->path("xenstore.sock");
  auto connected = xs::XsClient::connect(socket);
  if (!connected) return ADD_FAILURE() << connected.error().message(), false;
  toolstack_ = std::make_unique<xs::XsClient>(std::move(*connected), "toolstack", toolstack_log_);
  for (const Attack& attack : campaign_.attacks) {
    if (attack.script.domain != 0) domains_.insert(attack.script.domain);
  }
  for (const std::uint32_t domain : domains_) {
    const std::string id = std::to_string(domain);
    if (!toolstack("MKDIR " + home(domain)) || !toolstack("SET_PERMS " + home(domain) + " n" + id) ||
        !toolstack("INTRODUCE " + id + " 1 1")) {
      return false;
    }
  }
  for (const std::string& request : campaign_.setup) {
    if (!toolstack(request)) return false;
  }
  bystanders_ = std::make_unique<Bystanders>(socket, campaign_.load);
  if (auto begun = bystanders_->begin(); !begun) return ADD_FAILURE() << begun.error().message(), false;
  const auto end = std::chrono::steady_clock::now() + kDeadline;
  while (bystanders_->replies() < kWarmUp && std::chrono::steady_clock::now() < end)
    bystanders_->await_turn();
  EXPECT_GE(bystanders_->replies(), kWarmUp) << "the bystanders get nowhere";
  return !::testing::Test::HasFailure();
}

bool CampaignRun::toolstack(const std::string& request) {
  const std::string bytes = xs::encode_request(request, 0, 0, 0);
  xsd_sockmsg header{};
  std::memcpy(&header, bytes.data(), sizeof header);
  const auto done = toolstack_->call(static_cast<xsd_sockmsg_type>(header.type), 0,
                                     std::string_view(bytes).substr(sizeof header));
  EXPECT_TRUE(done.has_value()) << request << ": " << done.error().message();
  return done.has_value();
}

// Who connects between this and the next one acts for the domain.
bool CampaignRun::impersonate(std::uint32_t domain) {
  clear("as-guest");
  if (domain == 0) return true;
  const grpc::Status status = host_->inject("xenstore", "as-guest", std::to_string(domain), "", kLeaseMs);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return status.ok();
}

void CampaignRun::clear(const std::string& kind) {
  v1::ListFaultsRequest request;
  request.set_component("xenstore");
  v1::ListFaultsResponse response;
  const grpc::Status listed = host_->api().ListFaults(test::CoreHost::deadline().get(), request, &response);
  EXPECT_TRUE(listed.ok()) << listed.error_message();
  for (const v1::Fault& fault : response.faults()) {
    if (fault.kind() != kind) continue;
    v1::ClearFaultsRequest one;
    one.set_id(fault.id());
    v1::ClearFaultsResponse cleared;
    (void)host_->api().ClearFaults(test::CoreHost::deadline().get(), one, &cleared);
  }
}

bool CampaignRun::open_attackers() {
  for (const Attack& attack : campaign_.attacks) {
    if (!impersonate(attack.script.domain)) return false;
    xs::HostileScript script = attack.script;
    script.connections = crowd(script.connections);
    auto clients = std::make_unique<xs::HostileClients>(script, host_->path("xenstore.sock"));
    if (auto opened = clients->open(); !opened) return ADD_FAILURE() << opened.error().message(), false;
    attackers_.push_back({&attack, std::move(clients)});
  }
  const bool comes_back =
      !campaign_.attacks.empty() && campaign_.attacks.back().script.behaviour == xs::Behaviour::kResets;
  // An owner that is killed before it has heard of it would leave the fault to its successors.
  if (!comes_back) {
    clear("as-guest");
    expect_newcomer_served();
  }
  // Whatever is found from now on is heard of: the fault above, or one that does nothing, is an event.
  const auto end = std::chrono::steady_clock::now() + kDeadline;
  while (!findings_->seen() && std::chrono::steady_clock::now() < end) {
    (void)host_->inject("xenstore", "slow", "0ms", "", 1);
    bystanders_->await_turn();
  }
  return true;
}

// ---- meanwhile ----

void CampaignRun::go_on() {
  replies_at_start_ = replies_at_fault_ = bystanders_->replies();
  commits_at_start_ = bystanders_->commits();
  const auto end = std::chrono::steady_clock::now() + kDeadline;
  while (!turn() && !::testing::Test::HasFailure()) {
    if (std::chrono::steady_clock::now() > end) {
      ADD_FAILURE() << "the campaign does not come to its end";
      return;
    }
    std::vector<pollfd> answers;
    for (const Attacker& attacker : attackers_) attacker.clients->await_answers(answers);
    bystanders_->await_turn(std::move(answers));
  }
}

// True when everything has happened.
bool CampaignRun::turn() {
  for (Attacker& attacker : attackers_) step(attacker);
  if (inject_next_fault()) return false;
  return std::ranges::all_of(attackers_, [this](const Attacker& a) { return settled(a); }) &&
         reached(bystanders_->replies(), replies_at_start_, campaign_.load.replies) &&
         reached(bystanders_->commits(), commits_at_start_, campaign_.load.commits) &&
         (campaign_.expected.found.empty() || findings_->any_contains(campaign_.expected.found));
}

void CampaignRun::step(Attacker& attacker) {
  attacker.clients->step();
  if (attacker.clients->sent() == attacker.sent) return;
  attacker.sent = attacker.clients->sent();
  attacker.quiet_since = bystanders_->replies();
}

bool CampaignRun::settled(const Attacker& attacker) const {
  const xs::HostileClients& clients = *attacker.clients;
  switch (attacker.attack->fate) {
    case Fate::kServed:
      return clients.done() &&
             (!attacker.attack->events || clients.heard().events >= *attacker.attack->events);
    case Fate::kThrottled:
      return clients.stuck() && reached(bystanders_->replies(), attacker.quiet_since, kQuietReplies);
    case Fate::kCutOff:
      return clients.open_connections() == 0;
    case Fate::kUnharmed:
      return true;
  }
  return true;
}

// False when there is none left.
bool CampaignRun::inject_next_fault() {
  if (next_fault_ == campaign_.faults.size()) return false;
  const Fault& fault = campaign_.faults[next_fault_];
  if (!due(fault)) return true;
  ++next_fault_;
  strike(fault);
  replies_at_fault_ = bystanders_->replies();
  return true;
}

bool CampaignRun::due(const Fault& fault) {
  if (fault.trigger == Trigger::kAtOnce) return true;
  if (!reached(bystanders_->replies(), replies_at_fault_, fault.replies)) return false;
  const v1::Component now = host_->component("xenstore");
  const bool serving = now.state() == v1::STATE_SERVING && now.ready();
  // What is published may be from before the last fault.
  if (doomed_.contains(now.active_pid()) && fault.trigger != Trigger::kStandbyGone) return false;
  if (doomed_.contains(now.standby_pid()) && fault.trigger == Trigger::kComplete) return false;
  if (fault.trigger == Trigger::kTakenOver && !(serving && now.incarnation() > struck_.incarnation()))
    return false;
  if (fault.trigger == Trigger::kComplete && !(serving && now.standby_ready())) return false;
  if (fault.trigger == Trigger::kStandbyGone && now.standby_pid() == struck_.standby_pid()) return false;
  struck_ = now;
  return true;
}

pid_t CampaignRun::target(const Fault& fault) const {
  return static_cast<pid_t>(fault.target == "standby" ? struck_.standby_pid() : struck_.active_pid());
}

void CampaignRun::strike(const Fault& fault) {
  if (fault.kind == "kill" || fault.kind == "crash-at") doomed_.insert(target(fault));
  if (fault.kind == "kill-core") {
    doomed_.insert(fault.argument == "with-standby" ? struck_.standby_pid() : struck_.active_pid());
  }
  if (fault.kind == "kill") {
    EXPECT_EQ(::kill(target(fault), SIGKILL), 0) << fault.target << " is not there";
  } else if (fault.kind == "kill-core") {
    const pid_t core = host_->core_pid();
    host_->signal_core(SIGKILL);
    if (fault.argument == "with-active") (void)::kill(static_cast<pid_t>(struck_.active_pid()), SIGKILL);
    if (fault.argument == "with-standby") (void)::kill(static_cast<pid_t>(struck_.standby_pid()), SIGKILL);
    host_->wait_for_successor(core);
  } else {
    const grpc::Status status = host_->inject("xenstore", fault.kind, fault.argument, fault.target, kLeaseMs);
    EXPECT_TRUE(status.ok()) << fault.kind << " " << fault.argument << ": " << status.error_message();
    if (fault.target == "standby" && fault.kind == "crash-at") arm_surely(fault);
  }
}

// Orders are carried out in their order: when descriptors begin to leak, what was ordered before it is armed.
void CampaignRun::arm_surely(const Fault& fault) {
  const pid_t standby = target(fault);
  const std::size_t before = open_descriptors(standby);
  const grpc::Status status = host_->inject("xenstore", "fdleak", "", "standby", kLeaseMs);
  EXPECT_TRUE(status.ok()) << status.error_message();
  const auto end = std::chrono::steady_clock::now() + kDeadline;
  while (open_descriptors(standby) < before + 8 && test::running(standby) &&
         std::chrono::steady_clock::now() < end) {
    bystanders_->await_turn();
  }
  clear("fdleak");
}

// ---- after ----

void CampaignRun::judge(const Attacker& attacker) const {
  const Attack& attack = *attacker.attack;
  const xs::HostileClients& clients = *attacker.clients;
  const xs::Heard& heard = clients.heard();
  EXPECT_EQ(clients.error(), "");
  EXPECT_EQ(heard.broken, "") << "the service sent what is no message";
  EXPECT_TRUE(heard.forbidden.empty()) << ::testing::PrintToString(heard.forbidden);
  if (attack.taken_at_most) {
    EXPECT_LE(clients.sent(), *attack.taken_at_most);
  }
  if (attack.events) {
    EXPECT_EQ(heard.events, *attack.events);
  }
  if (attack.fate == Fate::kCutOff) {
    EXPECT_EQ(clients.open_connections(), 0U);
    return;
  }
  EXPECT_EQ(clients.open_connections(), clients.script().connections) << "an attacker was cut off";
  if (attack.fate != Fate::kServed) return;
  std::set<std::string> errors;
  for (const auto& [name, count] : heard.errors) errors.insert(name);
  EXPECT_EQ(errors, std::set<std::string>(attack.errors.begin(), attack.errors.end()));
}

CampaignRun::Look CampaignRun::look() {
  Look now;
  now.component = host_->component("xenstore");
  const auto active = static_cast<pid_t>(now.component.active_pid());
  now.rss = resident_bytes(active);
  now.fds = open_descriptors(active);
  now.core_fds = open_descriptors(host_->core_pid());
  return now;
}

void CampaignRun::judge_instances(const Look& before) {
  const std::uint64_t owners = campaign_.expected.survives ? 0 : campaign_.expected.takeovers.value_or(1);
  host_->wait("xenstore", "the last successor is complete", [&](const v1::Component& c) {
    return c.state() == v1::STATE_SERVING && c.standby_ready() &&
           c.incarnation() >= before.component.incarnation() + owners;
  });
  const Look after = look();
  const std::uint64_t moved = after.component.incarnation() - before.component.incarnation();
  if (campaign_.expected.takeovers_at_most) {
    EXPECT_LE(moved, *campaign_.expected.takeovers_at_most);
  }
  if (!campaign_.expected.survives) return;
  EXPECT_EQ(after.component.active_pid(), before.component.active_pid()) << after.component.cause();
  EXPECT_EQ(moved, 0U);
  const std::uint64_t peak = peak_resident_bytes(static_cast<pid_t>(after.component.active_pid()));
  EXPECT_LE(peak, before.rss + campaign_.expected.memory_growth) << "it was " << before.rss;
  ::testing::Test::RecordProperty("memory_growth_kib",
                                  std::to_string((std::max(peak, before.rss) - before.rss) >> 10));
  EXPECT_LE(after.fds, before.fds + 4) << "descriptors stay open";
  EXPECT_LE(after.core_fds, before.core_fds + 8) << "descriptors stay open";
}

void CampaignRun::judge_incidents() {
  const Expected& expected = campaign_.expected;
  const auto incidents = host_->incidents("xenstore");
  std::uint64_t refused = 0, lost = 0;
  bool blamed = expected.blamed.empty();
  bool offenders_named = false;
  for (const v1::Incident& incident : incidents) {
    refused += incident.refused();
    lost += incident.lost();
    const bool cut_off = incident.finding() == "client";
    offenders_named = offenders_named || cut_off;
    // A standby that gets no CPU for long on a busy machine may be renewed: that costs nobody anything.
    if (expected.survives && !cut_off) {
      EXPECT_TRUE(incident.evidence().starts_with("standby: ")) << incident.DebugString();
    }
    blamed = blamed || incident.blamed_client().find(expected.blamed) != std::string::npos;
  }
  EXPECT_EQ(lost, 0U);
  EXPECT_EQ(refused, expected.refused.value_or(0));
  EXPECT_TRUE(blamed) << "no incident blames " << expected.blamed;
  const bool cut_off = std::ranges::any_of(campaign_.attacks,
                                           [](const Attack& attack) { return attack.fate == Fate::kCutOff; });
  if (expected.survives && cut_off) {
    EXPECT_TRUE(offenders_named) << "somebody was cut off, and no incident says so";
  }
  if (!expected.found.empty()) {
    EXPECT_TRUE(findings_->any_contains(expected.found)) << findings_->all();
  }
}

// Until its last connection is closed. (The id may go on to be known: others may name it in permissions.)
void CampaignRun::expect_nothing_held(std::uint32_t domain) {
  const std::string question = "quota" + std::string(1, '\0') + std::to_string(domain) + '\0';
  const auto end = std::chrono::steady_clock::now() + kDeadline;
  std::string held;
  do {
    bystanders_->await_turn();
    // "Domain 5:", then a line "name: number" for each thing that can be held.
    const auto answer = toolstack_->call(XS_CONTROL, 0, question);
    held = answer ? answer->substr(answer->find('\n') + 1) : "";
  } while (held.find_first_of("123456789") != std::string::npos && std::chrono::steady_clock::now() < end);
  EXPECT_EQ(held.find_first_of("123456789"), std::string::npos) << "domain " << domain << " holds " << held;
}

// A new client acts for domain 0.
void CampaignRun::expect_newcomer_served() {
  xs::HostileScript newcomer;
  newcomer.messages = 0;
  xs::HostileClients client(newcomer, host_->path("xenstore.sock"));
  const auto opened = client.open();
  EXPECT_TRUE(opened.has_value()) << opened.error().message();
}

// A newcomer is served, everything adds up, and of the guests nothing is left when they are gone.
void CampaignRun::judge_tree() {
  expect_newcomer_served();
  toolstack("CONTROL check");
  attackers_.clear();
  for (const std::uint32_t domain : domains_) {
    toolstack("RELEASE " + std::to_string(domain));
    expect_nothing_held(domain);
  }
  toolstack("CONTROL check");
}

std::string CampaignRun::state() const {
  std::string text = "replies " + std::to_string(bystanders_->replies() - replies_at_start_) + ", commits " +
                     std::to_string(bystanders_->commits() - commits_at_start_) + ", faults " +
                     std::to_string(next_fault_) + "\n";
  for (const Attacker& attacker : attackers_) {
    const xs::HostileClients& clients = *attacker.clients;
    text += "attacker: sent " + std::to_string(clients.sent()) + " bytes, open " +
            std::to_string(clients.open_connections()) + ", replies " +
            std::to_string(clients.heard().replies) + ", events " + std::to_string(clients.heard().events) +
            ", errors " + ::testing::PrintToString(clients.heard().errors) +
            (clients.stuck() ? ", stuck" : "") + (clients.done() ? ", done" : "") + "\n";
  }
  return text + findings_->all();
}

}  // namespace bulkhead::campaign
