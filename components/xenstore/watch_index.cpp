#include "components/xenstore/watch_index.h"

#include <algorithm>

#include "components/xenstore/protocol.h"

namespace bulkhead::xenstore::core {
namespace {

std::int32_t levels(std::string_view path) {
  return path.size() == 1 ? 0 : static_cast<std::int32_t>(std::count(path.begin(), path.end(), '/'));
}

// They stand in the order of their registration, so thousands on one path need no search; except in a forged
// snapshot, which may have them in any.
std::vector<Watch*>::const_iterator position(const std::vector<Watch*>& watches, const Watch& watch) {
  auto found = std::ranges::lower_bound(watches, watch.sequence, {}, &Watch::sequence);
  if (found != watches.end() && *found == &watch) return found;
  return std::ranges::find(watches, &watch);
}

}  // namespace

WatchIndex::WatchIndex() : root_(std::make_unique<Place>()) {}
WatchIndex::~WatchIndex() {
  // Unlink bottom up: a deep chain must not be destroyed by recursion.
  std::vector<std::unique_ptr<Place>> doomed;
  if (root_) doomed.push_back(std::move(root_));
  while (!doomed.empty()) {
    std::unique_ptr<Place> place = std::move(doomed.back());
    doomed.pop_back();
    for (auto& [name, child] : place->children) doomed.push_back(std::move(child));
  }
}
WatchIndex::WatchIndex(WatchIndex&&) noexcept = default;
WatchIndex& WatchIndex::operator=(WatchIndex&&) noexcept = default;

void WatchIndex::add(Watch& watch) {
  by_key_.insert(&watch);
  if (is_special(watch.path)) {
    special_[watch.path].push_back(&watch);
    return;
  }
  Place* place = root_.get();
  for (Components components(watch.path); !components.done();) {
    std::string_view name = components.next();
    auto child = place->children.find(name);
    if (child == place->children.end()) {
      child = place->children.emplace(std::string(name), std::make_unique<Place>()).first;
    }
    place = child->second.get();
  }
  place->watches.push_back(&watch);
}

void WatchIndex::remove(Watch& watch) {
  by_key_.erase(&watch);
  if (is_special(watch.path)) {
    auto found = special_.find(watch.path);
    found->second.erase(position(found->second, watch));
    if (found->second.empty()) special_.erase(found);
    return;
  }
  std::vector<std::pair<Place*, std::map<std::string, std::unique_ptr<Place>, std::less<>>::iterator>> way;
  Place* place = root_.get();
  for (Components components(watch.path); !components.done();) {
    auto child = place->children.find(components.next());
    way.emplace_back(place, child);
    place = child->second.get();
  }
  place->watches.erase(position(place->watches, watch));
  for (; !way.empty() && way.back().second->second->watches.empty() &&
         way.back().second->second->children.empty();
       way.pop_back()) {
    way.back().first->children.erase(way.back().second);
  }
}

const WatchIndex::Place* WatchIndex::place(std::string_view path) const {
  const Place* place = root_.get();
  for (Components components(path); !components.done();) {
    auto child = place->children.find(components.next());
    if (child == place->children.end()) return nullptr;
    place = child->second.get();
  }
  return place;
}

const std::vector<Watch*>* WatchIndex::at(std::string_view path) const {
  if (is_special(path)) {
    auto found = special_.find(path);
    return found == special_.end() ? nullptr : &found->second;
  }
  const Place* found = place(path);
  return found != nullptr ? &found->watches : nullptr;
}

Watch* WatchIndex::find(ConnectionId connection, std::string_view path, std::string_view token) const {
  const auto found = by_key_.lower_bound(Key{connection, token, path, 0});
  const bool same = found != by_key_.end() && (*found)->connection == connection &&
                    (*found)->token == token && (*found)->path == path;
  return same ? *found : nullptr;
}

bool WatchIndex::contains(const Watch& watch) const {
  const std::vector<Watch*>* candidates = at(watch.path);
  const auto found = by_key_.find(ByKey::key(&watch));
  return candidates != nullptr && position(*candidates, watch) != candidates->end() &&
         found != by_key_.end() && *found == &watch;
}

// Calls `take` for the watches at `path` and, within their depth, above it, until it returns false.
template <typename Take>
void WatchIndex::each_matching(std::string_view path, Take take) const {
  if (is_special(path)) {
    const auto* found = at(path);
    for (std::size_t i = 0; found != nullptr && i < found->size(); ++i) {
      if (!take((*found)[i])) return;
    }
    return;
  }
  const Place* place = root_.get();
  std::int32_t above = -1;  // how far `place` is above `path`; counted only when a limited watch asks
  std::int32_t level = 0;
  for (Components components(path);; ++level, above -= above > 0 ? 1 : 0) {
    for (Watch* watch : place->watches) {
      if (watch->depth >= 0 && above < 0) above = levels(path) - level;
      if ((watch->depth < 0 || above <= watch->depth) && !take(watch)) return;
    }
    if (components.done()) return;
    auto child = place->children.find(components.next());
    if (child == place->children.end()) return;
    place = child->second.get();
  }
}

void WatchIndex::matching(std::string_view path, std::vector<Watch*>& out) const {
  each_matching(path, [&](Watch* watch) {
    out.push_back(watch);
    return true;
  });
}

bool WatchIndex::concerned(std::string_view path) const {
  bool any = false;
  each_matching(path, [&](Watch* /*watch*/) {
    any = true;
    return false;
  });
  return any;
}

void WatchIndex::collect(const Place& top, std::vector<Watch*>& out) {
  std::vector<const Place*> pending{&top};
  while (!pending.empty()) {
    const Place* place = pending.back();
    pending.pop_back();
    out.insert(out.end(), place->watches.begin(), place->watches.end());
    for (auto child = place->children.rbegin(); child != place->children.rend(); ++child) {
      pending.push_back(child->second.get());
    }
  }
}

void WatchIndex::below(std::string_view path, std::vector<Watch*>& out) const {
  const Place* top = place(path);
  if (top == nullptr) return;
  for (const auto& [name, child] : top->children) collect(*child, out);
}

}  // namespace bulkhead::xenstore::core
