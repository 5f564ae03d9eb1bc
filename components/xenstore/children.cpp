#include "components/xenstore/children.h"

#include <cstdlib>
#include <cstring>

#include "components/xenstore/node.h"

namespace bulkhead::xenstore::core {
namespace {

constexpr std::uint16_t kFanout = 32;
constexpr std::uint16_t kSmallestPage = 2;

// The first eight bytes of a name as a number that orders like them. Names hold no NUL: a zero in the last
// byte says that the whole name is in the key.
std::uint64_t key_of(std::string_view name) {
  std::uint64_t key = 0;
  std::memcpy(&key, name.data(), std::min<std::size_t>(name.size(), sizeof key));
  return __builtin_bswap64(key);
}
constexpr bool key_is_whole(std::uint64_t key) {
  return (key & 0xFF) == 0;
}

}  // namespace

struct PageEntry {
  std::uint64_t key;  // of the smallest name below
  union {
    Node* node;  // height 0
    Page* page;  // height > 0
  };
};

struct Page {
  std::uint32_t refs = 1;
  std::uint16_t size = 0;
  std::uint16_t capacity = 0;
  std::uint32_t height = 0;
  std::uint32_t count = 0;  // children in or below this page
  std::uint64_t bytes = 0;  // of their names, each with its NUL
  union {
    Totals totals{};  // of them and everything below
    Page* next_dead;  // while being destroyed
  };

  PageEntry* entries() { return reinterpret_cast<PageEntry*>(this + 1); }
  const PageEntry* entries() const { return reinterpret_cast<const PageEntry*>(this + 1); }
};
static_assert(sizeof(Page) == 48, "every directory pays for it");

void Totals::add(const Totals& other) {
  if (other.nodes == 0) return;
  owner = nodes == 0 || owner == other.owner ? other.owner : kSeveral;
  nodes += other.nodes;
  bytes += other.bytes;
  hash += other.hash;
}

void Totals::subtract(const Totals& other) {
  nodes -= other.nodes;
  bytes -= other.bytes;
  hash -= other.hash;
  if (nodes == 0) owner = kNobody;
}

void Trail::add(const Totals& change) const {
  for (const Step& step : steps) {
    Totals& totals = step.page->totals;
    totals.nodes += change.nodes;
    totals.hash += change.hash;
    const auto nodes = static_cast<std::int32_t>(change.nodes);
    totals.bytes += change.bytes - nodes * static_cast<std::int64_t>(step.directory);
    if (change.owner == Totals::kNobody || change.owner == totals.owner) continue;
    totals.owner = totals.nodes == 1 ? change.owner : Totals::kSeveral;
  }
}

namespace {

Page* new_page(std::uint32_t height, std::uint16_t capacity) {
  void* memory = ::operator new(sizeof(Page) + capacity * sizeof(PageEntry));
  Page* page = new (memory) Page;
  page->height = height;
  page->capacity = capacity;
  return page;
}

// The page only, not what its entries refer to.
void free_page(Page* page) {
  ::operator delete(page);
}

std::string_view smallest_name(const Page& page, std::size_t index) {
  const Page* at = &page;
  for (; at->height > 0; index = 0) at = at->entries()[index].page;
  return at->entries()[index].node->name();
}

bool less(const Page& page, std::size_t index, std::uint64_t key, std::string_view name) {
  std::uint64_t have = page.entries()[index].key;
  if (have != key) return have < key;
  return !key_is_whole(key) && smallest_name(page, index) < name;
}

bool equal(const Page& page, std::size_t index, std::uint64_t key, std::string_view name) {
  return page.entries()[index].key == key && (key_is_whole(key) || smallest_name(page, index) == name);
}

// The first entry whose key is not less. Without branches on keys: half of them would be mispredicted.
std::size_t first_of_key(const Page& page, std::uint64_t key) {
  const PageEntry* entries = page.entries();
  std::size_t low = 0;
  std::size_t left = page.size;
  while (left > 1) {
    const std::size_t half = left / 2;
    low += half * static_cast<std::size_t>(entries[low + half - 1].key < key);
    left -= half;
  }
  return low + static_cast<std::size_t>(left == 1 && entries[low].key < key);
}

// The first entry that is not less than `name`.
std::uint16_t lower_bound(const Page& page, std::uint64_t key, std::string_view name) {
  std::size_t low = first_of_key(page, key);
  if (key_is_whole(key) || low == page.size || page.entries()[low].key != key)
    return static_cast<std::uint16_t>(low);
  // Several may begin with the same eight bytes.
  std::size_t high = key == ~std::uint64_t{0} ? page.size : first_of_key(page, key + 1);
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if (smallest_name(page, middle) < name) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return static_cast<std::uint16_t>(low);
}

// The entry of an inner page under which `name` belongs.
std::uint16_t branch(const Page& page, std::uint64_t key, std::string_view name) {
  std::uint16_t index = lower_bound(page, key, name);
  if (index < page.size && equal(page, index, key, name)) return index;
  return index > 0 ? static_cast<std::uint16_t>(index - 1) : index;
}

// Fetches what a search will touch all at once: in a tree too big for the caches its time is that of waiting
// for memory.
void fetch(const void* from, std::size_t bytes) {
  constexpr std::size_t kLine = 64;
  for (std::size_t at = 0; at < bytes; at += kLine) __builtin_prefetch(static_cast<const char*>(from) + at);
}
// A page below another one: most likely of full capacity.
void fetch(const Page* page) {
  fetch(page, sizeof(Page) + kFanout * sizeof(PageEntry));
}
// With name and value, if they are short.
void fetch(const Node* node) {
  fetch(node, sizeof(Node) + 24);
}
// How many nodes ahead of itself a walk fetches.
constexpr std::uint32_t kAhead = 8;

void reference(const Page& page, const PageEntry& entry) {
  ++(page.height > 0 ? entry.page->refs : entry.node->refs);
}

// Gives *slot a page of its own with room for at least `capacity` entries.
Page* writable(Page*& slot, std::uint16_t capacity) {
  Page* old = slot;
  bool shared = old->refs > 1;
  if (!shared && old->capacity >= capacity) return old;
  Page* page = new_page(old->height, std::max(capacity, old->capacity));
  page->size = old->size;
  page->count = old->count;
  page->bytes = old->bytes;
  page->totals = old->totals;
  std::copy_n(old->entries(), old->size, page->entries());
  if (shared) {
    for (std::size_t i = 0; i < page->size; ++i) reference(*page, page->entries()[i]);
    --old->refs;
  } else {
    free_page(old);
  }
  return slot = page;
}

void insert_at(Page& page, std::size_t index, PageEntry entry) {
  std::copy_backward(page.entries() + index, page.entries() + page.size, page.entries() + page.size + 1);
  page.entries()[index] = entry;
  ++page.size;
}

void remove_at(Page& page, std::size_t index) {
  std::copy(page.entries() + index + 1, page.entries() + page.size, page.entries() + index);
  --page.size;
}

void recount(Page& page) {
  page.count = 0;
  page.bytes = 0;
  page.totals = {};
  for (std::size_t i = 0; i < page.size; ++i) {
    const PageEntry& entry = page.entries()[i];
    page.count += page.height > 0 ? entry.page->count : 1;
    page.bytes += page.height > 0 ? entry.page->bytes : entry.node->name().size() + 1;
    page.totals.add(page.height > 0 ? entry.page->totals : subtree_totals(*entry.node));
  }
}

// Adds an entry to the exclusive page *slot, whose totals include it already. Returns the new right half if
// the page was full. Appending leaves the left half full, so that children made in order fill their pages.
Page* add_entry(Page*& slot, std::uint16_t index, PageEntry entry) {
  if (slot->size == slot->capacity && slot->capacity < kFanout) {
    writable(slot,
             static_cast<std::uint16_t>(std::min(kFanout, static_cast<std::uint16_t>(slot->capacity * 2))));
  }
  if (slot->size < slot->capacity) {
    insert_at(*slot, index, entry);
    return nullptr;
  }
  Page* left = slot;
  Page* right = new_page(left->height, kFanout);
  std::uint16_t keep = index == left->size ? left->size : kFanout / 2;
  right->size = static_cast<std::uint16_t>(left->size - keep);
  std::copy_n(left->entries() + keep, right->size, right->entries());
  left->size = keep;
  if (index > keep || right->size == 0) {
    insert_at(*right, static_cast<std::size_t>(index - keep), entry);
  } else {
    insert_at(*left, index, entry);
  }
  recount(*right);
  left->count -= right->count;
  left->bytes -= right->bytes;
  left->totals.subtract(right->totals);
  return right;
}

// Inserts below *slot. Returns the page to its right that had to be made, if any.
Page* insert_below(Page*& slot, std::uint64_t key, Node* child) {
  Page* page = writable(slot, slot->size);
  page->count += 1;
  page->bytes += child->name().size() + 1;
  page->totals.add(subtree_totals(*child));
  if (page->height == 0) {
    std::uint16_t index = lower_bound(*page, key, child->name());
    return add_entry(slot, index, PageEntry{.key = key, .node = child});
  }
  std::uint16_t index = branch(*page, key, child->name());
  PageEntry& entry = page->entries()[index];
  Page* right = insert_below(entry.page, key, child);
  entry.key = entry.page->entries()[0].key;
  if (right == nullptr) return nullptr;
  PageEntry added{.key = right->entries()[0].key, .page = right};
  // NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDeleteLeaks): `added` owns it, in a union
  return add_entry(slot, static_cast<std::uint16_t>(index + 1), added);
}

// Appends the entry right of `index` to it if both are thin, so that erasing does not leave a chain of
// near-empty pages.
void merge_with_next(Page& page, std::size_t index) {
  PageEntry* entries = page.entries();
  auto together = static_cast<std::uint16_t>(entries[index].page->size + entries[index + 1].page->size);
  if (together > kFanout / 2) return;
  Page* left = writable(entries[index].page, together);
  Page* right = writable(entries[index + 1].page, 0);
  std::copy_n(right->entries(), right->size, left->entries() + left->size);
  left->size = together;
  left->count += right->count;
  left->bytes += right->bytes;
  left->totals.add(right->totals);
  free_page(right);
  remove_at(page, index + 1);
}

void tidy_after_erase(Page& page, std::uint16_t index) {
  PageEntry& entry = page.entries()[index];
  if (entry.page->size == 0) {
    free_page(entry.page);
    remove_at(page, index);
    return;
  }
  entry.key = entry.page->entries()[0].key;
  if (entry.page->size > kFanout / 4) return;
  if (index + 1 < page.size) merge_with_next(page, index);
  if (index > 0) merge_with_next(page, index - 1U);
}

Node* erase_below(Page*& slot, std::uint64_t key, std::string_view name) {
  Page* page = writable(slot, slot->size);
  std::uint16_t index = page->height == 0 ? lower_bound(*page, key, name) : branch(*page, key, name);
  Node* erased;
  if (page->height == 0) {
    erased = page->entries()[index].node;
    remove_at(*page, index);
  } else {
    erased = erase_below(page->entries()[index].page, key, name);
    tidy_after_erase(*page, index);
  }
  page->count -= 1;
  page->bytes -= name.size() + 1;
  page->totals.subtract(subtree_totals(*erased));
  return erased;
}

// The owner may be kSeveral where a recount would find just one.
bool agree(const Totals& kept, const Totals& counted) {
  return kept.nodes == counted.nodes && kept.bytes == counted.bytes && kept.hash == counted.hash &&
         (kept.owner == counted.owner || kept.owner == Totals::kSeveral);
}

bool consistent_page(const Page& page, std::string_view& previous) {
  std::uint64_t count = 0;
  std::uint64_t bytes = 0;
  Totals totals;
  for (std::size_t i = 0; i < page.size; ++i) {
    const PageEntry& entry = page.entries()[i];
    totals.add(page.height > 0 ? entry.page->totals : subtree_totals(*entry.node));
    if (entry.key != key_of(smallest_name(page, i))) return false;
    if (page.height > 0) {
      if (entry.page->height + 1 != page.height || !consistent_page(*entry.page, previous)) return false;
      count += entry.page->count;
      bytes += entry.page->bytes;
      continue;
    }
    if (entry.node->name() <= previous) return false;
    previous = entry.node->name();
    count += 1;
    bytes += previous.size() + 1;
  }
  return page.size > 0 && count == page.count && bytes == page.bytes && agree(page.totals, totals);
}

}  // namespace

// Nodes and pages that nobody holds any more, to be taken apart piece by piece.
struct Grave {
  Node* nodes = nullptr;
  Page* pages = nullptr;
  std::uint64_t pending = 0;  // nodes in it, at most

  void bury(Node* node) {
    pending += 1 + node->children.totals().nodes;
    add(node);
  }
  void bury(Page* page) {
    if (--page->refs > 0) return;
    pending += page->totals.nodes;
    add(page);
  }
  void reap(std::uint64_t pieces) {
    while (pieces > 0 && (nodes != nullptr || pages != nullptr)) {
      pieces -= std::min(pieces, pages != nullptr ? reap_page() : reap_node());
    }
    if (nodes == nullptr && pages == nullptr) pending = 0;
  }

 private:
  void add(Node* node) {
    node->next_dead = nodes;
    nodes = node;
  }
  void add(Page* page) {
    page->next_dead = pages;
    pages = page;
  }
  // Both return how much work it was.
  std::uint64_t reap_node() {
    Node* node = nodes;
    nodes = node->next_dead;
    pending -= std::min<std::uint64_t>(pending, 1);
    if (Page* page = std::exchange(node->children.root_, nullptr); page != nullptr && --page->refs == 0)
      add(page);
    node->~Node();
    ::operator delete(node);
    return 1;
  }
  std::uint64_t reap_page() {
    Page* page = pages;
    pages = page->next_dead;
    for (std::size_t i = 0; i < page->size; ++i) {
      const PageEntry& entry = page->entries()[i];
      if (page->height > 0 && --entry.page->refs == 0) add(entry.page);
      if (page->height == 0 && --entry.node->refs == 0) add(entry.node);
    }
    const std::uint64_t work = 1U + page->size / 4U;
    free_page(page);
    return work;
  }
};

namespace {

// Never destroyed itself: whatever is buried while the program ends stays.
constinit thread_local Grave grave;
constexpr std::uint64_t kReapAtLeast = 64;
constexpr std::uint64_t kReapShare = 256;  // of what is pending

}  // namespace

void Node::destroy(Node* node) {
  grave.bury(node);
}
void Node::reap_some() {
  if (grave.nodes != nullptr || grave.pages != nullptr) grave.reap(kReapAtLeast + grave.pending / kReapShare);
}
void Node::reap_all() {
  grave.reap(~std::uint64_t{0});
}

Children::Children(const Children& other) : root_(other.root_) {
  if (root_ != nullptr) ++root_->refs;
}

Children::~Children() {
  if (root_ != nullptr) grave.bury(root_);
}

std::uint64_t Children::size() const {
  return root_ != nullptr ? root_->count : 0;
}
std::uint64_t Children::bytes() const {
  return root_ != nullptr ? root_->bytes : 0;
}

Totals Children::totals() const {
  return root_ != nullptr ? root_->totals : Totals{};
}

void Children::for_owners(std::size_t directory, const Charge& charge) const {
  struct Part {
    const Page* page;
    std::size_t directory;
  };
  std::vector<Part> parts;
  if (root_ != nullptr) parts.push_back({root_, directory});
  while (!parts.empty()) {
    const auto [page, length] = parts.back();
    parts.pop_back();
    const Totals& totals = page->totals;
    if (totals.owner != Totals::kSeveral) {
      charge(totals.owner, totals.nodes,
             totals.bytes + std::int64_t{totals.nodes} * static_cast<std::int64_t>(length));
      continue;
    }
    for (std::size_t i = 0; i < page->size; ++i) {
      const PageEntry& entry = page->entries()[i];
      if (page->height > 0) {
        parts.push_back({entry.page, length});
        continue;
      }
      const Node& node = *entry.node;
      const std::size_t path = length + 1 + node.name().size();
      charge(node.owner(), 1, static_cast<std::int64_t>(record_size(node) + path));
      if (node.children.root_ != nullptr) parts.push_back({node.children.root_, path});
    }
  }
}

const Node* Children::find(std::string_view name) const {
  const Page* page = root_;
  if (page == nullptr) return nullptr;
  std::uint64_t key = key_of(name);
  while (page->height > 0) {
    page = page->entries()[branch(*page, key, name)].page;
    fetch(page);
  }
  std::uint16_t index = lower_bound(*page, key, name);
  if (index == page->size) return nullptr;
  const Node* node = page->entries()[index].node;
  fetch(node);
  return equal(*page, index, key, name) ? node : nullptr;
}

Node& Children::exclusive(std::string_view name, std::size_t directory, Trail& trail) {
  std::uint64_t key = key_of(name);
  Page** slot = &root_;
  Page* page = writable(*slot, root_->size);
  trail.steps.push_back({page, directory});
  while (page->height > 0) {
    slot = &page->entries()[branch(*page, key, name)].page;
    page = writable(*slot, (*slot)->size);
    trail.steps.push_back({page, directory});
  }
  PageEntry& entry = page->entries()[lower_bound(*page, key, name)];
  if (entry.node->refs > 1) {
    Ref<Node> copy = entry.node->clone();
    --entry.node->refs;
    entry.node = copy.release();
  }
  return *entry.node;
}

void Children::insert(Ref<Node> child) {
  if (root_ == nullptr) root_ = new_page(0, kSmallestPage);
  std::uint64_t key = key_of(child->name());
  Page* right = insert_below(root_, key, child.release());
  if (right == nullptr) return;
  Page* root = new_page(root_->height + 1, kSmallestPage);
  insert_at(*root, 0, PageEntry{.key = root_->entries()[0].key, .page = root_});
  insert_at(*root, 1, PageEntry{.key = right->entries()[0].key, .page = right});
  recount(*root);
  root_ = root;
}

Ref<Node> Children::erase(std::string_view name) {
  // `name` may be the erased node's own, which lives as long as the returned reference.
  Ref<Node> erased = Ref<Node>::adopt(erase_below(root_, key_of(name), name));
  if (root_->size == 0) free_page(std::exchange(root_, nullptr));
  while (root_ != nullptr && root_->height > 0 && root_->size == 1) {
    Page* only = root_->entries()[0].page;
    free_page(root_);
    root_ = only;
  }
  return erased;
}

bool Children::consistent() const {
  std::string_view previous;
  return root_ == nullptr || consistent_page(*root_, previous);
}

ChildCursor::ChildCursor(const Children& children) {
  if (children.root_ != nullptr) descend(children.root_);
}

ChildCursor::ChildCursor(const Children& children, std::uint64_t offset, std::uint64_t& inside) {
  const Page* page = children.root_;
  if (page == nullptr || offset >= page->bytes) return;
  for (;; page = page->entries()[path_[levels_ - 1].index].page) {
    std::uint32_t index = 0;
    for (;; ++index) {
      const PageEntry& entry = page->entries()[index];
      std::uint64_t bytes = page->height > 0 ? entry.page->bytes : entry.node->name().size() + 1;
      if (offset < bytes) break;
      offset -= bytes;
    }
    path_[levels_++] = {page, index};
    if (page->height == 0) break;
  }
  inside = offset;
}

ChildCursor::ChildCursor(const Children& children, std::string_view after) {
  const Page* page = children.root_;
  if (page == nullptr) return;
  const std::uint64_t key = key_of(after);
  for (; page->height > 0; page = page->entries()[path_[levels_ - 1].index].page) {
    path_[levels_++] = {page, branch(*page, key, after)};
  }
  std::uint16_t index = lower_bound(*page, key, after);
  if (index < page->size && equal(*page, index, key, after)) ++index;
  path_[levels_++] = {page, index};
  if (index < page->size) return;
  --path_[levels_ - 1].index;  // next() steps past the page's end
  next();
}

void ChildCursor::descend(const Page* page) {
  for (;; page = page->entries()[0].page) {
    if (levels_ == kMaxLevels) std::abort();
    path_[levels_++] = {page, 0};
    if (page->height == 0) break;
  }
  for (std::size_t i = 1; i < std::min<std::size_t>(kAhead, page->size); ++i) fetch(page->entries()[i].node);
  if (levels_ == 1) return;
  const Level& above = path_[levels_ - 2];
  if (above.index + 1U < above.page->size) fetch(above.page->entries()[above.index + 1U].page);
}

bool ChildCursor::in_order(const Children& children) const {
  const auto [page, index] = path_[levels_ - 1];
  const PageEntry& entry = page->entries()[index];
  const std::string_view name = entry.node->name();
  if (entry.key != key_of(name)) return false;
  return index == 0 ? children.find(name) == entry.node : less(*page, index - 1U, entry.key, name);
}

const Node& ChildCursor::node() const {
  const Level& leaf = path_[levels_ - 1];
  return *leaf.page->entries()[leaf.index].node;
}

void ChildCursor::next() {
  while (levels_ > 0 && ++path_[levels_ - 1].index == path_[levels_ - 1].page->size) --levels_;
  if (levels_ == 0) return;
  const Level& level = path_[levels_ - 1];
  if (level.page->height > 0) return descend(level.page->entries()[level.index].page);
  if (level.index + kAhead < level.page->size) fetch(level.page->entries()[level.index + kAhead].node);
}

}  // namespace bulkhead::xenstore::core
