#include "takeover/supervised.h"

#include <algorithm>
#include <thread>

#include "cli/failure.h"
#include "components/xenstore/import_items.h"
#include "runtime/clock.h"

namespace bulkhead::takeover {
namespace {

constexpr std::chrono::milliseconds kBetween(50);
constexpr std::int64_t kTellEvery = 10 * kSecond;
constexpr std::int64_t kStartDeadline = 60 * kSecond;

ErrorKind kind_of(const cli::Failure& failure) {
  return failure.code == cli::ExitCode::kUnreachable ? ErrorKind::kDisconnected : ErrorKind::kRefused;
}

}  // namespace

Status Supervised::ready_to_take_over() const {
  v1::ListComponentsRequest request;
  request.set_name(component_);
  v1::ListComponentsResponse list;
  if (auto asked = client_.query(request, list); !asked)
    return failure(kind_of(asked.error()), asked.error().message);
  if (list.components_size() != 1) return failure(ErrorKind::kNotFound, "no component " + component_);
  const v1::Component& component = list.components(0);
  if (component.wanted() || component.running() || component.state() != v1::STATE_STOPPED)
    return failure(ErrorKind::kRefused, component_ + " is not stopped: disable it first");
  if (component.incarnation() != 0) {
    return failure(ErrorKind::kRefused, component_ + " has a state of its own: `bulkhead release " +
                                            component_ + "` gives that up");
  }
  return {};
}

// An answer, however long the supervisor is gone: systemd starts it again.
template <typename Request, typename Response>
Response Supervised::surely(const Request& request, bool act) const {
  for (std::int64_t told = monotonic_ns();;) {
    Response response;
    const auto asked = act ? client_.act(request, response) : client_.query(request, response);
    // Refused is an answer, too: what there is to know is asked for afterwards.
    if (asked || asked.error().code != cli::ExitCode::kUnreachable) return response;
    if (monotonic_ns() > told + kTellEvery) {
      told = monotonic_ns();
      tell_("waiting for the supervisor: " + asked.error().message);
    }
    std::this_thread::sleep_for(kBetween);
  }
}

v1::Component Supervised::state() const {
  v1::ListComponentsRequest request;
  request.set_name(component_);
  const auto list = surely<v1::ListComponentsRequest, v1::ListComponentsResponse>(request, false);
  return list.components_size() == 1 ? list.components(0) : v1::Component();
}

Status Supervised::hand_over(const v1::ImportCustodyRequest& request) const {
  v1::ImportCustodyResponse response;
  const auto asked = client_.act(request, response);
  if (asked) return {};
  // The answer may have died with the supervisor. What it took and did not start with it has dropped by now.
  if (asked.error().code != cli::ExitCode::kFailed && state().wanted()) return {};
  return failure(kind_of(asked.error()), asked.error().message);
}

Status Supervised::wait_until_serving() const {
  const std::int64_t deadline = monotonic_ns() + kStartDeadline;
  for (;;) {
    const v1::Component now = state();
    switch (now.state()) {
      case v1::STATE_SERVING:
        return {};
      case v1::STATE_BACKOFF:
      case v1::STATE_ISOLATED:
      case v1::STATE_STOPPED:
        // It would fail again: what was handed over stays what it is.
        return failure(ErrorKind::kFailed, component_ + " cannot go on: " + now.cause());
      default:
        break;
    }
    if (monotonic_ns() > deadline)
      return failure(ErrorKind::kTimeout, component_ + " does not begin to serve");
    std::this_thread::sleep_for(kBetween);
  }
}

bool Supervised::take_back() const {
  v1::DisableRequest disable;
  disable.set_component(component_);
  (void)surely<v1::DisableRequest, v1::DisableResponse>(disable, true);
  while (state().state() != v1::STATE_STOPPED) {
    std::this_thread::sleep_for(kBetween);
    (void)surely<v1::DisableRequest, v1::DisableResponse>(disable, true);
  }
  // The service serves nobody before this is withdrawn.
  v1::ListCustodyRequest list;
  list.set_component(component_);
  const auto custody = surely<v1::ListCustodyRequest, v1::ListCustodyResponse>(list, false);
  const bool untouched = std::ranges::any_of(
      custody.items(), [](const v1::CustodyItem& item) { return item.name() == xenstore::kImportItem; });
  if (!untouched) {
    v1::EnableRequest enable;
    enable.set_component(component_);
    (void)surely<v1::EnableRequest, v1::EnableResponse>(enable, true);
    return false;
  }
  v1::ReleaseCustodyRequest release;
  release.set_component(component_);
  (void)surely<v1::ReleaseCustodyRequest, v1::ReleaseCustodyResponse>(release, true);
  return true;
}

}  // namespace bulkhead::takeover
