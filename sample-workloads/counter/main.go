// Counts from one to the number given as its argument, one line each: a WASI p1 command written in Go.
package main

import (
	"fmt"
	"os"
	"strconv"
)

func main() {
	n := 10
	if len(os.Args) > 1 {
		v, err := strconv.Atoi(os.Args[1])
		if err != nil {
			fmt.Fprintf(os.Stderr, "%q is not a number\n", os.Args[1])
			os.Exit(2)
		}
		n = v
	}
	for i := 1; i <= n; i++ {
		fmt.Println(i)
	}
}
