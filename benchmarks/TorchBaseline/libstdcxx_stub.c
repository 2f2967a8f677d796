/* libstdc++ 13 has this function, which only makes the linker pull in the stream objects; an older libstdc++ sets them up without it. */
void _ZSt21ios_base_library_initv(void)
{
}
