#include "components/xenstore/rehearsal.h"

#include <unistd.h>

#include <array>
#include <charconv>
#include <csignal>
#include <memory>
#include <utility>
#include <vector>

#include "components/xenstore/commit.h"
#include "components/xenstore/connections.h"
#include "components/xenstore/crash_points.h"
#include "components/xenstore/protocol.h"
#include "runtime/clock.h"

namespace bulkhead::xenstore {
namespace {

struct Named {
  std::string_view name;
  Poison poison;
};
constexpr std::string_view kPrefix = "/poison/";
constexpr std::array kPoisons{Named{"crash", Poison::kCrash},
                              Named{"reply", Poison::kReply},
                              Named{"hang", Poison::kHang},
                              Named{"memory", Poison::kMemory},
                              Named{"connection", Poison::kConnection},
                              Named{"follow", Poison::kFollow}};

void hang() {
  for (;;) ::pause();
}

// Until somebody stops it: a limit, a monitor, or at the latest itself.
void blow_up() {
  constexpr std::size_t kBlock = std::size_t{16} << 20;
  constexpr std::size_t kMostBlocks = 256;
  std::vector<std::unique_ptr<std::vector<char>>> blocks;
  while (blocks.size() < kMostBlocks) blocks.push_back(std::make_unique<std::vector<char>>(kBlock, 'P'));
  std::abort();
}

Status begin_as_guest(Control& control, const std::string& argument, std::int64_t expires_ns) {
  std::uint32_t domid = 0;
  const auto [end, error] = std::from_chars(argument.data(), argument.data() + argument.size(), domid);
  if (error != std::errc() || end != argument.data() + argument.size() || domid == 0 ||
      domid >= kFirstReservedDomain) {
    return failure(ErrorKind::kInvalid, "as-guest: \"" + argument + "\" is not a guest's domid (1 to " +
                                            std::to_string(kFirstReservedDomain - 1) + ")");
  }
  control.guest_domid.store(domid);
  kFaultHalfSet.pass();
  control.guest_until_ns.store(expires_ns);
  return {};
}

Status flip_in_custody(const Custody& custody, const std::string& place) {
  if (place == "commit") {
    Commit::damage_next();
    return {};
  }
  using Place = Connections::Place;
  static constexpr std::array kPlaces{std::pair{"output", Place::kOutput}, std::pair{"input", Place::kInput},
                                      std::pair{"slot", Place::kPositions}};
  for (const auto& [name, where] : kPlaces) {
    if (place != name) continue;
    if (Connections(custody).flip_bit(where)) return {};
    return failure(ErrorKind::kRefused,
                   "corrupt: there is no client of which " + place + " could be damaged");
  }
  return failure(ErrorKind::kInvalid,
                 "corrupt: \"" + place + "\" is none of tree, output, input, slot, commit");
}

}  // namespace

Poison poison_of(const Control& control, const Request& request, std::int64_t now_ns) {
  if (now_ns >= control.poison_until_ns.load(std::memory_order_relaxed)) return Poison::kNone;
  std::string_view path = as_text(request.payload);
  if (!path.starts_with(kPrefix)) return Poison::kNone;
  path = path.substr(kPrefix.size(), path.find('\0') - kPrefix.size());
  for (const Named& named : kPoisons) {
    if (path == named.name) return named.poison;
  }
  return Poison::kNone;
}

void suffer(Poison poison) {
  switch (poison) {
    case Poison::kNone:
    case Poison::kReply:
    case Poison::kFollow:
      return;
    case Poison::kCrash:
    case Poison::kConnection:
      std::abort();
    case Poison::kHang:
      return hang();
    case Poison::kMemory:
      return blow_up();
  }
}

std::uint32_t domain_of_new_client(const Control& control, std::int64_t now_ns) {
  const bool guest = now_ns < control.guest_until_ns.load(std::memory_order_relaxed);
  return guest ? control.guest_domid.load(std::memory_order_relaxed) : 0;
}

std::vector<InstanceFaults::Own> own_faults(const std::function<Custody*()>& custody,
                                            std::function<void()> corrupt_tree) {
  const auto with_control = [custody](auto act) {
    return [custody, act](const std::string& argument, std::int64_t expires_ns) -> Status {
      Custody* found = custody();
      if (found == nullptr) return failure(ErrorKind::kRefused, "there is no custody yet");
      return act(found->control(), argument, expires_ns);
    };
  };
  const auto end_with = [custody](auto end) {
    return [custody, end] {
      if (Custody* found = custody()) end(found->control());
    };
  };
  std::vector<InstanceFaults::Own> faults;
  faults.push_back(
      {"corrupt",
       [custody, tree = std::move(corrupt_tree)](const std::string& place, std::int64_t) -> Status {
         if (place.empty() || place == "tree") return tree(), Status();
         const Custody* found = custody();
         if (found == nullptr) return failure(ErrorKind::kRefused, "there is no custody yet");
         return flip_in_custody(*found, place);
       },
       {}});
  faults.push_back({"poison", with_control([](Control& control, const std::string&, std::int64_t expires_ns) {
                      control.poison_until_ns.store(expires_ns);
                      return Status();
                    }),
                    end_with([](Control& control) { control.poison_until_ns.store(0); })});
  faults.push_back({"as-guest", with_control(begin_as_guest),
                    end_with([](Control& control) { control.guest_until_ns.store(0); })});
  return faults;
}

}  // namespace bulkhead::xenstore
