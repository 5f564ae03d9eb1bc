// Runs a campaign against the product: bulkheadd with the real xenstore service, the faults through the API,
// the attackers and the bystanders through the service's socket. What is not as expected fails the current
// GoogleTest test.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/fault/bystanders.h"
#include "tests/fault/campaign.h"
#include "tests/fault/findings.h"
#include "tests/integration/core_host.h"
#include "tests/support/xs_client.h"

namespace bulkhead::campaign {

class CampaignRun {
 public:
  explicit CampaignRun(const Campaign& campaign);

  void run();

 private:
  struct Attacker {
    const Attack* attack;
    std::unique_ptr<xs::HostileClients> clients;
    std::uint64_t sent = 0;         // when it was looked at last
    std::uint64_t quiet_since = 0;  // the bystanders' replies when it last got something through
  };
  // The active instance at one time.
  struct Look {
    v1::Component component;
    std::uint64_t rss = 0;
    std::size_t fds = 0;
    std::size_t core_fds = 0;
  };

  // Before.
  bool prepare();
  bool toolstack(const std::string& request);
  bool open_attackers();
  bool impersonate(std::uint32_t domain);
  void clear(const std::string& fault_kind);

  // Meanwhile.
  void go_on();
  bool turn();
  void step(Attacker& attacker);
  bool settled(const Attacker& attacker) const;
  bool inject_next_fault();
  bool due(const Fault& fault);
  void strike(const Fault& fault);
  void arm_surely(const Fault& fault);
  pid_t target(const Fault& fault) const;

  // After.
  void judge(const Attacker& attacker) const;
  void judge_instances(const Look& before);
  void judge_incidents();
  void expect_newcomer_served();
  void judge_tree();
  void expect_nothing_held(std::uint32_t domain);
  Look look();
  std::string state() const;

  const Campaign& campaign_;
  std::unique_ptr<test::CoreHost> host_;
  std::unique_ptr<Findings> findings_;
  std::unique_ptr<Bystanders> bystanders_;
  xs::AnomalyLog toolstack_log_;
  std::unique_ptr<xs::XsClient> toolstack_;
  std::vector<Attacker> attackers_;
  std::set<std::uint32_t> domains_;
  v1::Component struck_;    // as it was when the last fault came due
  std::set<pid_t> doomed_;  // processes that faults have killed or will
  std::size_t next_fault_ = 0;
  std::uint64_t replies_at_fault_ = 0;
  std::uint64_t replies_at_start_ = 0;
  std::uint64_t commits_at_start_ = 0;
};

}  // namespace bulkhead::campaign
