# Everything comes from Debian (scripts/install_deps.sh). Libraries that Debian ships as archives are
# linked statically, so that the program starts small and runs on a machine that has none of them.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(fmt REQUIRED)
find_package(CLI11 REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(GTest REQUIRED)
find_package(benchmark REQUIRED)

# dogstar_static_module(<name> <pkg-config modules>...) makes dogstar::<name>, linked from archives.
function(dogstar_static_module name)
  string(TOUPPER "PC_${name}" prefix)
  pkg_check_modules(${prefix} REQUIRED ${ARGN})
  set(archives "")
  foreach(library IN LISTS ${prefix}_STATIC_LIBRARIES)
    if(library STREQUAL "pthread" OR library STREQUAL "rt" OR library STREQUAL "m" OR library STREQUAL "dl"
       OR library STREQUAL "atomic")  # parts of the C library and the compiler
      continue()
    endif()
    find_library(archive_${library} NAMES lib${library}.a HINTS ${${prefix}_STATIC_LIBRARY_DIRS} REQUIRED)
    list(APPEND archives ${archive_${library}})
  endforeach()
  add_library(dogstar_${name} INTERFACE)
  add_library(dogstar::${name} ALIAS dogstar_${name})
  target_include_directories(dogstar_${name} SYSTEM INTERFACE ${${prefix}_INCLUDE_DIRS})
  # A group, because pkg-config drops repeats that one pass over archives would need.
  target_link_libraries(dogstar_${name} INTERFACE -Wl,--start-group ${archives} -Wl,--end-group Threads::Threads)
endfunction()

dogstar_static_module(absl absl_status absl_statusor absl_strings absl_str_format absl_flat_hash_map absl_cleanup absl_function_ref)
dogstar_static_module(uring liburing)
dogstar_static_module(pcre2 libpcre2-8)
dogstar_static_module(xxhash libxxhash)
dogstar_static_module(yaml yaml-cpp)

# The line editor of `dogstar chat`; a shared library, because it needs the terminal database of the system.
pkg_check_modules(EDIT REQUIRED IMPORTED_TARGET libedit)
