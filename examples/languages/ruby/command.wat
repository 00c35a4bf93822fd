;; Makes a command of Ruby for WASI as npm has it, which is a library for JavaScript: `_start`
;; gives Ruby the command's arguments and has it load /pkg/main.rb. `wasm-merge` joins the three.
;;
;; Only the part of the canonical ABI (of its time before components) that it takes to call Ruby is
;; here: a string is a pointer and a length, a list of strings as many such pairs. What is given
;; to Ruby is made with its own allocator.
(module
  (import "ruby" "memory" (memory 0))
  (import "ruby" "_initialize" (func $initialize))
  (import "ruby" "cabi_realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
  (import "ruby" "ruby-init: func(args: list<string>) -> ()" (func $init (param i32 i32)))
  (import "ruby" "rb-eval-string-protect: func(str: string) -> tuple<handle<rb-abi-value>, s32>"
    (func $eval (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))

  ;; Options of Ruby's own: UTF-8, no gems, an empty script of the command line, the end of options.
  (data $options "ruby\00-EUTF-8\00--disable-gems\00-e_=0\00--\00")
  (data $script
    "begin; load '/pkg/main.rb'; $stdout.flush; rescue SystemExit => e; $stdout.flush; e.success? or raise;"
    " rescue Exception => e; $stdout.flush; $stderr.puts e.full_message(highlight: false); raise; end")

  (func $new (param $size i32) (result i32)
    (call $realloc (i32.const 0) (i32.const 0) (i32.const 4) (local.get $size)))

  ;; Put the strings that lie one after the other, each with a zero at its end, into the list.
  (func $list (param $text i32) (param $count i32) (param $pair i32) (result i32)
    (local $length i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (local.set $length (i32.const 1))
        (block $found
          (loop $byte
            (br_if $found (i32.eqz (i32.load8_u
              (i32.add (local.get $text) (i32.sub (local.get $length) (i32.const 1))))))
            (local.set $length (i32.add (local.get $length) (i32.const 1)))
            (br $byte)))
        (i32.store (local.get $pair) (local.get $text))
        (i32.store offset=4 (local.get $pair) (local.get $length))
        (local.set $text (i32.add (local.get $text) (local.get $length)))
        (local.set $pair (i32.add (local.get $pair) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (local.get $pair))

  (func (export "_start")
    (local $sizes i32) (local $count i32) (local $text i32) (local $pairs i32) (local $end i32)
    (call $initialize)
    (local.set $sizes (call $new (i32.const 8)))
    (drop (call $sizes (local.get $sizes) (i32.add (local.get $sizes) (i32.const 4))))
    (local.set $count (i32.load (local.get $sizes)))
    ;; Five options stand in the place of the program's name.
    (local.set $pairs (call $new (i32.mul (i32.add (local.get $count) (i32.const 5)) (i32.const 8))))
    (local.set $text (call $new (i32.const 37)))
    (memory.init $options (local.get $text) (i32.const 0) (i32.const 37))
    (local.set $end (call $list (local.get $text) (i32.const 5) (local.get $pairs)))
    ;; The pointers that `args_get` writes are not needed: the strings follow each other.
    (local.set $text (call $new (i32.load offset=4 (local.get $sizes))))
    (drop (call $args (call $new (i32.mul (local.get $count) (i32.const 4))) (local.get $text)))
    (drop (call $list (local.get $text) (local.get $count) (local.get $end)))
    ;; The program's name came last of ours; it is no argument of the script.
    (memory.copy (local.get $end) (i32.add (local.get $end) (i32.const 8))
      (i32.mul (i32.sub (local.get $count) (i32.const 1)) (i32.const 8)))
    (call $init (local.get $pairs) (i32.add (local.get $count) (i32.const 4)))
    (local.set $text (call $new (i32.const 198)))
    (memory.init $script (local.get $text) (i32.const 0) (i32.const 198))
    ;; The value, and after it 0 if no error was raised.
    (if (i32.load offset=4 (call $eval (local.get $text) (i32.const 198)))
      (then (call $exit (i32.const 1))))))
