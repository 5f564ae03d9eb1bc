#include "tests/fault/bystanders.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "runtime/clock.h"
#include "tests/support/conflict_checker.h"
#include "tests/support/load_clients.h"

namespace bulkhead::campaign {
namespace {

// Generous: the machine may be busy with other things, and a hang has to be found first.
constexpr xs::LoadLoop::Limits kLimits{.reply_deadline_ns = 20 * kSecond, .drain_deadline_ns = 30 * kSecond};

}  // namespace

Bystanders::Bystanders(const std::string& socket_path, const Load& load)
    : settings_{socket_path, "/bystanders", 8},
      load_(load),
      loop_(settings_, log_, kLimits),
      turned_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Bystanders::~Bystanders() {
  end();
}

Status Bystanders::add() {
  if (Status opened = loop_.open(); !opened) return opened;
  if (Status added = xs::add_clients(loop_, load_.clients, settings_, log_); !added) return added;
  if (load_.conflict_node.empty()) return {};
  auto toolstack = std::make_unique<xs::ConflictChecker>(
      settings_, log_, xs::ConflictChecker::Bounds{.node = load_.conflict_node});
  toolstack_ = toolstack.get();
  return loop_.add(std::move(toolstack));
}

Status Bystanders::begin() {
  if (Status added = add(); !added) return added;
  thread_ = std::thread([this] {
    loop_.run([this] {
      replies_.store(loop_.replies());
      if (toolstack_ != nullptr) commits_.store(toolstack_->completed());
      const std::uint64_t one = 1;
      (void)!::write(turned_.get(), &one, sizeof one);
      return enough_.load();
    });
  });
  return {};
}

void Bystanders::await_turn(std::vector<pollfd> others) const {
  constexpr int kLongestTurnMs = 1000;
  others.push_back({turned_.get(), POLLIN, 0});
  (void)::poll(others.data(), others.size(), kLongestTurnMs);
  std::uint64_t turns = 0;
  (void)!::read(turned_.get(), &turns, sizeof turns);
}

void Bystanders::end() {
  enough_.store(true);
  if (thread_.joinable()) thread_.join();
}

}  // namespace bulkhead::campaign
