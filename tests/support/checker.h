// Checking clients of a xenstore service: each drives one or more connections and knows what must come back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/xs_client.h"

namespace bulkhead::xs {

// Where and how deep a checker works. `base` is an absolute xenstore path all checkers of one run share; the
// run owns the subtree below it.
struct CheckerSettings {
  std::string socket_path;
  std::string base;
  size_t depth = 8;  // requests in flight per connection
};

// Values carry a checksum, so that a torn one is told from a wrong one.
std::string encode_value(uint64_t number);
std::optional<uint64_t> decode_value(std::string_view value);

// `path` with its NUL, and a WRITE's payload.
std::string path_payload(std::string_view path);
std::string write_payload(std::string_view path, std::string_view value);

class Checker : public Listener {
 public:
  Checker(std::string name, CheckerSettings settings, AnomalyLog& log)
      : name_(std::move(name)), settings_(std::move(settings)), log_(log) {}

  // Connects and creates its nodes, synchronously, before the load starts.
  virtual Status setup() = 0;
  // Sends as much as the depth allows. Called after setup and after every batch of input.
  virtual void pump() = 0;
  // True when, after stop(), nothing is under way any more: no request unanswered, no event outstanding.
  virtual bool idle() const;
  // Last checks, synchronously, on an idle checker.
  virtual void finish() {}

  void on_event(XsClient& client, std::string_view path, std::string_view token) override;

  void stop() { stopping_ = true; }
  const std::string& name() const { return name_; }
  const std::vector<std::unique_ptr<XsClient>>& clients() const { return clients_; }
  // What it did, in its own unit (counters: writes; movers: commits...).
  uint64_t completed() const { return completed_; }

 protected:
  Result<XsClient*> connect(const std::string& suffix = "");
  void anomaly(Anomaly kind, std::string_view what) { log_.add(kind, name_, what); }
  // Counts an anomaly unless `reply` is a success.
  bool succeeded(const Reply& reply);
  bool stopping() const { return stopping_; }
  const CheckerSettings& settings() const { return settings_; }
  std::string path(std::string_view below) const { return settings_.base + "/" + std::string(below); }
  void count() { ++completed_; }

 private:
  std::string name_;
  CheckerSettings settings_;
  AnomalyLog& log_;
  std::vector<std::unique_ptr<XsClient>> clients_;
  bool stopping_ = false;
  uint64_t completed_ = 0;
};

}  // namespace bulkhead::xs
