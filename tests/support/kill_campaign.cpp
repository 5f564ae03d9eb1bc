#include "tests/support/kill_campaign.h"

#include <csignal>
#include <thread>
#include <utility>

#include "runtime/clock.h"

namespace bulkhead::testing {
namespace {

constexpr std::int64_t kStuck = 20 * kSecond;

}  // namespace

KillCampaign::KillCampaign(ComponentHost& host, Options options)
    : host_(host), options_(std::move(options)), random_(options_.seed) {
  if (!options_.strike) {
    options_.strike = [](ComponentHost& h, ComponentHost::Instance& active,
                         ComponentHost::Instance& /*standby*/) {
      h.kill(active);
      return &active;
    };
  }
}

bool KillCampaign::begin() {
  if (auto first = host_.launch(); !first) return fail(first.error().message());
  if (!host_.wait_until([this] { return host_.active() != nullptr; }))
    return fail("the first instance does not serve");
  if (auto second = host_.launch(); !second) return fail(second.error().message());
  if (!host_.wait_until([this] { return host_.ready_standby() != nullptr; }))
    return fail("the standby is not ready");
  return true;
}

bool KillCampaign::fail(std::string why) {
  if (error_.empty()) error_ = "after " + std::to_string(kills_) + " kills: " + std::move(why);
  return false;
}

std::vector<std::int64_t> KillCampaign::take_marks() {
  return std::exchange(marks_, {});
}

bool KillCampaign::await_successor(std::int64_t now) {
  if (now - struck_ns_ > kStuck) {
    fail(victim_->ended() ? "no successor became active" : "the victim does not end");
    return true;
  }
  if (victim_->ended() && host_.living() == 0) {
    // The strike left nobody: whoever comes now must do with what is in custody.
    if (auto next = host_.launch(); !next) return !fail(next.error().message());
  }
  const ComponentHost::Instance* active = host_.active();
  if (!victim_->ended() || active == nullptr) return false;
  takeovers_.push_back(active->takeover().serving_monotonic_ns() - struck_ns_);
  ++kills_;
  victim_ = nullptr;
  host_.forget_ended();
  if (kills_ == options_.kills) return true;
  next_strike_ns_ = 0;
  struck_ns_ = now;
  return false;
}

bool KillCampaign::step() {
  host_.pump(0);
  const std::int64_t now = monotonic_ns();
  if (victim_ != nullptr) return await_successor(now);
  // A strike may have ended both, and the second end may be seen late.
  if (host_.living() < 2) {
    if (auto next = host_.launch(); !next) return !fail(next.error().message());
  }
  ComponentHost::Instance* active = host_.active();
  ComponentHost::Instance* standby = host_.ready_standby();
  if (active == nullptr || standby == nullptr) {
    if (struck_ns_ != 0 && now - struck_ns_ > kStuck) {
      fail(active == nullptr ? "the active instance ended unasked" : "no standby became ready");
      return true;
    }
    return false;
  }
  if (next_strike_ns_ == 0) {
    std::uniform_int_distribution<std::int64_t> pause(options_.min_pause_ns, options_.max_pause_ns);
    next_strike_ns_ = now + pause(random_);
  }
  if (now < next_strike_ns_) return false;
  struck_ns_ = monotonic_ns();
  marks_.push_back(struck_ns_);
  victim_ = options_.strike(host_, *active, *standby);
  return false;
}

int die_in_deposits(ComponentHost& host) {
  int deaths = 0;
  for (int round = 0; round < 20 && host.active() == nullptr; ++round) {
    const std::int64_t deadline = monotonic_ns() + 10 * kSecond;
    const auto spin_until = [&](const auto& condition) {
      while (!condition() && monotonic_ns() < deadline) std::this_thread::yield();
      return condition();
    };
    // Its first deposit is not answered as long as we do not pump.
    auto owner = host.launch();
    if (!owner || !spin_until([&] { return host.owner() == (*owner)->pid(); })) return -1;
    auto launched = host.launch();
    if (!launched) return -1;
    ComponentHost::Instance* heir = *launched;
    if (!host.inject(*heir, "crash-at", "custody-deposit")) return -1;
    host.ping(*heir);
    if (!spin_until([&] { return heir->vitals().pong == heir->vitals().ping; })) return -1;
    host.kill(**owner);
    if (!host.wait_until([&] { return heir->ended() || heir->active(); })) return -1;
    if (heir->ended()) {
      ++deaths;
      if (heir->exit_status().status != SIGKILL) return -1;
    }
    if (!host.wait_until([&] { return host.living() == (heir->ended() ? 0U : 1U); })) return -1;
    host.forget_ended();
  }
  return deaths;
}

}  // namespace bulkhead::testing
