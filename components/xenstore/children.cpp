#include "components/xenstore/children.h"

#include <cstdlib>
#include <cstring>

#include "components/xenstore/node.h"

namespace bulkhead::xenstore::core {
namespace {

constexpr std::uint16_t kFanout = 32;
constexpr std::uint16_t kSmallestPage = 4;

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
  std::uint32_t reserved = 0;
  std::uint64_t count = 0;  // children in or below this page
  std::uint64_t bytes = 0;  // of their names, each with its NUL

  PageEntry* entries() { return reinterpret_cast<PageEntry*>(this + 1); }
  const PageEntry* entries() const { return reinterpret_cast<const PageEntry*>(this + 1); }
};

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

// The first entry that is not less than `name`.
std::uint16_t lower_bound(const Page& page, std::uint64_t key, std::string_view name) {
  std::size_t low = 0;
  std::size_t high = page.size;
  while (low < high) {
    std::size_t middle = (low + high) / 2;
    if (less(page, middle, key, name)) {
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
  for (std::size_t i = 0; i < page.size; ++i) {
    const PageEntry& entry = page.entries()[i];
    page.count += page.height > 0 ? entry.page->count : 1;
    page.bytes += page.height > 0 ? entry.page->bytes : entry.node->name().size() + 1;
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
  recount(*left);
  recount(*right);
  return right;
}

// Inserts below *slot. Returns the page to its right that had to be made, if any.
Page* insert_below(Page*& slot, std::uint64_t key, Node* child) {
  Page* page = writable(slot, slot->size);
  page->count += 1;
  page->bytes += child->name().size() + 1;
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
  return erased;
}

// Drops one reference to the page. Nodes that nobody holds any more are chained to `dead`.
void drop_page(Page* page, Node*& dead) {
  if (--page->refs > 0) return;
  for (std::size_t i = 0; i < page->size; ++i) {
    PageEntry& entry = page->entries()[i];
    if (page->height > 0) {
      drop_page(entry.page, dead);
    } else if (--entry.node->refs == 0) {
      entry.node->next_dead = dead;
      dead = entry.node;
    }
  }
  free_page(page);
}

bool consistent_page(const Page& page, std::string_view& previous) {
  std::uint64_t count = 0;
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < page.size; ++i) {
    const PageEntry& entry = page.entries()[i];
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
  return page.size > 0 && count == page.count && bytes == page.bytes;
}

}  // namespace

void Node::destroy(Node* node) {
  node->next_dead = nullptr;
  while (node != nullptr) {
    Node* dying = node;
    node = dying->next_dead;
    if (Page* page = std::exchange(dying->children.root_, nullptr)) drop_page(page, node);
    delete dying;
  }
}

Children::Children(const Children& other) : root_(other.root_) {
  if (root_ != nullptr) ++root_->refs;
}

Children::~Children() {
  if (root_ == nullptr) return;
  Node* dead = nullptr;
  drop_page(root_, dead);
  while (dead != nullptr) {
    Node* next = dead->next_dead;
    Node::destroy(dead);
    dead = next;
  }
}

std::uint64_t Children::size() const {
  return root_ != nullptr ? root_->count : 0;
}
std::uint64_t Children::bytes() const {
  return root_ != nullptr ? root_->bytes : 0;
}

const Node* Children::find(std::string_view name) const {
  const Page* page = root_;
  if (page == nullptr) return nullptr;
  std::uint64_t key = key_of(name);
  while (page->height > 0) page = page->entries()[branch(*page, key, name)].page;
  std::uint16_t index = lower_bound(*page, key, name);
  return index < page->size && equal(*page, index, key, name) ? page->entries()[index].node : nullptr;
}

Node& Children::exclusive(std::string_view name) {
  std::uint64_t key = key_of(name);
  Page** slot = &root_;
  Page* page = writable(*slot, root_->size);
  while (page->height > 0) {
    slot = &page->entries()[branch(*page, key, name)].page;
    page = writable(*slot, (*slot)->size);
  }
  PageEntry& entry = page->entries()[lower_bound(*page, key, name)];
  if (entry.node->refs > 1) {
    Node* copy = new Node(*entry.node);
    --entry.node->refs;
    entry.node = copy;
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
    if (page->height == 0) return;
  }
}

const Node& ChildCursor::node() const {
  const Level& leaf = path_[levels_ - 1];
  return *leaf.page->entries()[leaf.index].node;
}

void ChildCursor::next() {
  while (levels_ > 0 && ++path_[levels_ - 1].index == path_[levels_ - 1].page->size) --levels_;
  if (levels_ == 0) return;
  const Level& level = path_[levels_ - 1];
  if (level.page->height > 0) descend(level.page->entries()[level.index].page);
}

}  // namespace bulkhead::xenstore::core
