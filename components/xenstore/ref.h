// Intrusive, non-atomic reference counting: what makes a tree snapshot one pointer copy. Single-threaded by
// design.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

namespace bulkhead::xenstore::core {

// Owns one reference to an object with a member `refs` (created as 1) and a static `destroy(T*)`.
template <typename T>
class Ref {
 public:
  Ref() = default;
  static Ref adopt(T* object) {
    Ref ref;
    ref.object_ = object;
    return ref;
  }
  Ref(const Ref& other) : object_(other.object_) {
    if (object_ != nullptr) ++object_->refs;
  }
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() {
    if (object_ != nullptr && --object_->refs == 0) T::destroy(object_);
  }

  T* get() const { return object_; }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }
  // Someone else holds a reference too: copy before changing.
  bool shared() const { return object_->refs > 1; }
  [[nodiscard]] T* release() { return std::exchange(object_, nullptr); }

 private:
  T* object_ = nullptr;
};

// A reference-counted array with its elements behind the header, in one allocation.
template <typename T>
struct SharedArray {
  static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 4);

  std::uint32_t refs = 1;
  std::uint32_t size = 0;
  std::uint32_t capacity = 0;

  T* data() { return reinterpret_cast<T*>(this + 1); }
  const T* data() const { return reinterpret_cast<const T*>(this + 1); }
  std::span<const T> view() const { return {data(), size}; }

  static Ref<SharedArray> make(std::span<const T> from) {
    void* memory = ::operator new(sizeof(SharedArray) + from.size_bytes());
    auto* array = new (memory) SharedArray;
    array->size = array->capacity = static_cast<std::uint32_t>(from.size());
    std::copy(from.begin(), from.end(), array->data());
    return Ref<SharedArray>::adopt(array);
  }
  static void destroy(SharedArray* array) {
    array->~SharedArray();
    ::operator delete(array);
  }
};

}  // namespace bulkhead::xenstore::core
