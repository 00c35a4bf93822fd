;; Gives the adapter its room in a module of Go's, and what comes of a call its place: build.py puts
;; the two numbers in, and `wasm-merge` joins this and the module. The adapter asks first, for 128 KiB,
;; and frees nothing; what is given later, the program gives back (server.go).
(module
  (global $next (mut i32) (i32.const START))
  (func (export "cabi_realloc") (param $old i32) (param $had i32) (param $align i32) (param $size i32)
      (result i32)
    (local $at i32)
    (local.set $at
      (i32.and
        (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $next (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (global.get $next) (i32.const END)) (then (unreachable)))
    (local.get $at))
  (func (export "given") (result i32) (global.get $next))
  (func (export "give-back") (param $to i32) (global.set $next (local.get $to))))
