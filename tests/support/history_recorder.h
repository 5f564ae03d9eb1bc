// Records rounds of random concurrent requests as histories.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/history.h"
#include "tests/support/recording_client.h"

namespace bulkhead::xs {

class HistoryRecorder {
 public:
  struct Settings {
    std::string socket_path = {};
    std::string base = "/linear";  // the recorder owns it
    size_t clients = 5;
    size_t depth = 2;  // requests in flight per client
    bool snapshot_isolation = true;
    bool lasting_nodes = false;  // see RecordingClient::Settings
    uint64_t seed = 1;
  };

  HistoryRecorder(Settings settings, AnomalyLog& log) : settings_(std::move(settings)), log_(log) {}

  // Connects everybody and registers the watches, synchronously. The connections last for all rounds.
  Status open();

  // Puts the tree below the base into its first state, lets every client make `requests` requests, and waits
  // for all answers and events. `step` is called all the time and must not block. Fails when something is
  // not answered in 20 s; `history` then has what there is.
  Status record(size_t requests, const std::function<void()>& step, History& history);

  size_t conflicts() const;
  size_t commits() const;
  // When the clients of the last round began and ended, CLOCK_MONOTONIC.
  std::pair<int64_t, int64_t> busy() const { return busy_; }

 private:
  // A connection without a load of its own: with a watch, or to put the tree into its first state.
  struct Quiet final : Listener {
    std::unique_ptr<XsClient> client;
    Watcher watcher;
    std::string refused;

    void on_reply(const Reply& reply) override;
    void on_event(XsClient& from, std::string_view path, std::string_view token) override;
  };

  Result<std::unique_ptr<XsClient>> connect(const std::string& name);
  Status watch(const std::string& path);
  Status prepare(const std::function<void()>& step);
  // Waits until every watcher has been sent all events so far.
  Status settle(const std::function<void()>& step);
  Status drive(const std::function<void()>& step, const std::function<bool()>& done);
  void turn();
  Nodes first_state() const;

  Settings settings_;
  AnomalyLog& log_;
  Quiet control_;
  std::vector<std::unique_ptr<Quiet>> watchers_;
  std::vector<std::unique_ptr<RecordingClient>> clients_;
  std::pair<int64_t, int64_t> busy_;
};

}  // namespace bulkhead::xs
