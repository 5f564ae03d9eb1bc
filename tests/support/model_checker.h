// The protocol itself against a model: one connection changes and asks about a small tree that nobody else
// touches.
#pragma once

#include <deque>
#include <map>
#include <random>
#include <set>

#include "tests/support/checker.h"

namespace bulkhead::xs {

// A xenstore subtree in the plainest form, with the protocol's rules (Xen's docs/misc/xenstore.txt): parents
// are made on the way, permissions are inherited, removing takes the children along and fires the watches on
// each.
class TreeModel {
 public:
  struct Node {
    std::string value;
    std::string perms;
  };

  TreeModel(std::string root, std::string perms) : root_(std::move(root)) {
    nodes_[root_] = {"", std::move(perms)};
  }

  const Node* find(const std::string& path) const;
  Node& create(const std::string& path);
  const std::map<std::string, Node>& nodes() const { return nodes_; }
  // The children's names.
  std::set<std::string> children(const std::string& path) const;
  // Removes `path` and all below it; what was removed.
  std::set<std::string> remove(const std::string& path);
  static std::string parent(const std::string& path) { return path.substr(0, path.rfind('/')); }

 private:
  std::string root_;
  std::map<std::string, Node> nodes_;
};

// Random requests, pipelined. The model is updated when a request is sent: on one connection they take effect
// in that order, so each reply and each watch event is known beforehand.
class ModelChecker final : public Checker {
 public:
  ModelChecker(size_t index, CheckerSettings settings, AnomalyLog& log);
  Status setup() override;
  void pump() override;
  bool idle() const override;
  void finish() override;
  void on_reply(const Reply& reply) override;
  void on_event(XsClient& client, std::string_view path, std::string_view token) override;

 private:
  struct Due {
    std::string what;
    bool error = false;
    std::string payload;
    std::optional<std::set<std::string>> names;  // a directory's children, in any order
  };
  struct Event {
    std::string path;
    std::string token;
  };

  void send_random();
  void ask(xsd_sockmsg_type type, const std::string& payload, Due due);
  void write(const std::string& node);
  void mkdir(const std::string& node);
  void remove(const std::string& node);
  void read(const std::string& node);
  void directory(const std::string& node);
  void get_perms(const std::string& node);
  void set_perms(const std::string& node);
  void toggle_watch(const std::string& node);
  void malformed(const std::string& node);
  void compare(const std::string& node, xsd_sockmsg_type type, const std::string& due);
  void changed(const std::string& node);
  bool may_merge(const std::string& node) const;
  std::string random_node();

  std::string root_;
  TreeModel model_;
  std::mt19937_64 random_;
  XsClient* client_ = nullptr;
  std::deque<Due> due_;
  uint64_t first_due_ = 0;  // cookie of due_.front()
  std::deque<Event> events_;
  std::optional<Event> watch_;
  uint64_t sent_ = 0;
};

}  // namespace bulkhead::xs
